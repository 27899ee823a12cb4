"""The parts of benchmarks/accelerator.py: which processes they start, and what is read from the files they write."""

import dataclasses
import json
import os
import pathlib
import shlex
import statistics
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
EPOCHS, LEAST_LINES = 1000, 2  # epochs of the recipe; lines of metrics.jsonl that a rate needs


@dataclasses.dataclass(frozen=True)
class Row:
    """One process and its limits."""

    name: str
    command: tuple[str, ...] = ()
    seconds: float = 0  # the most that it may take
    read: Callable = dict  # () -> result, from the files that it wrote
    least: float = 60  # seconds without which it is not begun
    tries: int = 1  # of a process that goes on where a crash ended it
    stops: bool = False  # it is meant to run out of time
    missing: str = ""  # why it cannot be run
    environment: dict = dataclasses.field(default_factory=dict)

    def command_text(self):
        """Returns the command without the paths of this machine."""
        text = shlex.join(("python", *self.command[1:]))
        return text.replace(f"{ROOT}{os.sep}", "")


def python(*words):
    return (sys.executable, *map(str, words))


def smoke(setting):
    """Every encoder, forward and backward."""
    # Beside the results: a later call goes on from it.
    path = setting.out / ("a_cases_rehearsal.json" if setting.rehearse else "a_cases.json")
    command = python(BENCHMARKS / "accelerator_smoke.py", path, *(["--rehearse"] if setting.rehearse else []))

    def read():
        cases = json.loads(path.read_text())["cases"]
        failed = sorted(name for name, case in cases.items() if case["status"] != "ok")
        summary = f"{len(cases) - len(failed)} of {len(cases)} cases finite" + "".join(f"; {name}" for name in failed)
        return {"summary": summary, "failed": failed, "cases": cases}

    return [Row("encoders", command, 600 if setting.rehearse else 200, read, tries=20)]


def tests(setting):
    """The tests with the marker `accelerator`."""
    path = setting.work / "tests.xml"
    options = ("-m", "accelerator", "-q", "-W", "default", "-p", "no:cacheprovider", f"--junitxml={path}")
    command = python("-m", "pytest", ROOT / "tests" / "test_accelerator.py", *options)
    platforms = {"gpu": "cuda,cpu", "tpu": "tpu,cpu"}.get(setting.about["backend"], "cpu")  # cpu for the references

    def read():
        from xml.etree import ElementTree

        outcomes = {}
        for case in ElementTree.parse(path).iter("testcase"):
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            outcomes[case.get("name")] = {"outcome": next(iter(kinds), "passed"), "seconds": float(case.get("time"))}
        passed = sum(case["outcome"] == "passed" for case in outcomes.values())
        return {"summary": f"{passed} of {len(outcomes)} tests passed", "tests": outcomes}

    return [Row("tests", command, 300 if setting.rehearse else 120, read, environment={"JAX_PLATFORMS": platforms})]


def steps(setting):
    """Training steps against PyTorch, and the training loop on the packed images. To add a row, append it here."""
    rows = [
        step(setting, "BNS step, ResNet-18, batch 1024, bfloat16", "resnet18", 64, 1024, "bfloat16", 240),
        *loops(setting),
    ]
    if not setting.rehearse:  # the first row has the same path, and on a CPU each takes minutes
        rows += [
            step(setting, f"ResNet-32, batch 128, {dtype}", "resnet32", 16, 128, dtype, 150)
            for dtype in ("bfloat16", "float32")
        ]
    return rows


def step(setting, name, encoder, width, batch, dtype, seconds):
    """Returns a row of benchmarks/step.py: the network, whole steps and their parts, in JAX and PyTorch."""
    path = setting.work / f"step_{encoder}_{dtype}.json"
    words = {"encoder": encoder, "width": width, "batch": batch, "dtype": dtype, "repeats": 20, "name": path}
    if setting.rehearse:
        words |= {"width": 4, "batch": 16, "repeats": 3, "side": 16, "loss-batch": 16, "workers": 2}
    options = [f"--{key}={value}" for key, value in words.items()]
    command = python(BENCHMARKS / "step.py", *options, f"--torch-python={setting.torch_python}")

    def read():
        result = json.loads(path.read_text())
        return {"summary": compared(result), **result}

    return Row(name, command, 600 if setting.rehearse else seconds, read)


def compared(result):
    """Returns one line: our steps against PyTorch's, and the released way; networks alone against networks alone."""
    milliseconds, torch = {name: row["ms"] for name, row in result["step"].items()}, result.get("torch", {})
    ours = milliseconds["BNS step, whole"]
    texts = [f"BNS step {ours:.2f} ms"]
    for name, ms in torch.items():
        if name == "BNS step, compiled" or "released way" in name:
            texts.append(f"{name} in PyTorch {ms:.2f} ms ({ms / ours:.2f} times ours)")
    network = milliseconds["network, forward and backward"]
    texts.append(f"supervised step {milliseconds['supervised step, whole']:.2f} ms, of it network {network:.2f} ms")
    for name, ms in torch.items():
        if name.endswith("forward and backward, compiled"):
            texts.append(f"{name} in PyTorch {ms:.2f} ms ({ms / network:.2f} times ours)")
    return "; ".join(texts)


def loops(setting):
    """Returns the rows of pretraining by the recipe on the packed images: step by step, and epoch by epoch."""
    most = {"loop": 1, "scan": 200}
    return [training(setting, how, (f"--config.host.steps_per_execution={n}",)) for how, n in most.items()]


def training(setting, how, flags):
    """Returns a row that pretrains until its time is over, which the run takes as a preemption."""
    workdir = setting.work / f"training_{how}"
    config = f"--config=configs/{setting.manifest['config']}.py:100" + (",smoke" if setting.rehearse else "")
    words = ["-m", "lt_jax.main", config, f"--workdir={workdir}", "--stage=pretrain"]
    words += [f"--config.data.dir={setting.data}", "--config.dtype=bfloat16"]
    if setting.rehearse:
        tiny = {"encoder.name": "resnet_small", "encoder.width": 4, "pretrain.projector": "(16,8)"}
        tiny |= {"pretrain.batch_size": 8, "pretrain.epochs": 5, "log.every_steps": 5}
        words += [f"--config.{key}={value}" for key, value in tiny.items()]

    def read():
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        batch = json.loads((workdir / "config.json").read_text())["pretrain"]["batch_size"]
        return speed([line for line in lines if line.get("stage") == "pretrain" and "images_per_s" in line], batch)

    return Row(f"training, {how}", python(*words, *flags), 100, read, stops=True)


def speed(lines, batch):
    """Returns the median rate of the lines after the first, which holds the compilation, and what 1,000 epochs take."""
    if len(lines) < LEAST_LINES:
        raise ValueError(f"expected at least {LEAST_LINES} lines in metrics.jsonl, found {len(lines)}")
    rate = statistics.median(line["images_per_s"] for line in lines[1:])
    steps_of_epoch = round(lines[-1]["step"] / lines[-1]["epoch"])
    minutes = EPOCHS * steps_of_epoch * batch / rate / 60
    measured = lines[-1]["step"] - lines[0]["step"]
    summary = f"{rate:.0f} images/s over {measured} steps; {EPOCHS} epochs of {steps_of_epoch} steps: {minutes:.1f} min"
    return {"summary": summary, "images_per_s": rate, "minutes_of_1000_epochs": minutes, "lines": lines}


def ipdpp(setting):
    """Draws of IP-DPP: exact, in float32 and by eigendecomposition, with their time and memory."""
    path = setting.work / "ipdpp.json"
    sizes, methods = (
        ("100,200", "rank_one,eigen,numpy") if setting.rehearse else ("1000,100000,1000000", "rank_one,eigen")
    )
    command = python(BENCHMARKS / "ipdpp.py", "--sizes", sizes, "--methods", methods, "--no-classes", "--to", path)

    def read():
        rows = json.loads(path.read_text())["rows"]
        texts = [f"{row['method']} {row['n']}: {1e3 * row['median_s']:.1f} ms" for row in rows if "median_s" in row]
        skipped = [row for row in rows if "skipped" in row]
        if skipped:
            raise ValueError(f"{len(skipped)} of {len(rows)} draws failed: {skipped[0]['skipped']}")
        return {"summary": ", ".join(texts), "rows": rows}

    return [Row("draws", command, 300 if setting.rehearse else 120, read)]


def accuracy(setting):
    """Accuracy on the test images of the packed set. To add a run, return its row here, best value first."""
    return [Row("accuracy", missing="no accuracy run is defined yet")]


PARTS = {
    "a": ("smoke", smoke),
    "b": ("tests", tests),
    "c": ("step", steps),
    "d": ("ipdpp", ipdpp),
    "e": ("accuracy", accuracy),
}
