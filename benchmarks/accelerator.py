"""Measures the library on a borrowed accelerator: pack here, run there, in as many calls as it takes.

    python benchmarks/accelerator.py pack --data=cifar10_lt --data-dir=DIR --wheels --to=build/accelerator
    python benchmarks/accelerator.py run --packed=build/accelerator --out=OUT --budget=540 [--parts=a,b,c,d,e]

`pack` needs the network and the official archive of CIFAR, and refuses what is above 60 MiB together with the
repository. `run` needs neither: it installs the wheels for itself, unpacks the images and runs the parts in order:

    a  every encoder forward and backward, bfloat16 and float32
    b  the tests marked `accelerator`
    c  training steps against PyTorch compiled, and the training loop on CIFAR for a minute
    d  IP-DPP draws
    e  accuracy

Each part consists of rows. A row is a process with a time limit. Its result goes to OUT/PART.json as soon as it ends,
with command, seconds and, if it failed, its last 20 lines. A finished row is not run again. For a machine that keeps
nothing, put what an earlier call wrote into the folder `results` of the packed folder. `run --rehearse` takes the same
path on a CPU with tiny sizes. The exit status is 0 when every row is finished.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import accelerator_parts

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINES = 20  # of the log of a row that failed
GRACE = 15  # seconds in which a row that is over its time may end by itself; also the least that a row gets
PYTHON = sys.executable

FACTS = """
import json, importlib.metadata as m, jax
names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "torchvision")
versions = {d.metadata["Name"]: d.version for d in m.distributions() if d.metadata["Name"] in names}
device = jax.devices()[0]
print(json.dumps({"backend": device.platform, "device": device.device_kind, "devices": jax.device_count(),
                  "jax": jax.__version__, "versions": versions}))
"""


def main(words=None):
    options = parse(words)
    if options.action == "pack":
        return pack(options)
    return run(options)


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    packing = actions.add_parser("pack", help="on the machine that has the data and a network")
    packing.add_argument("--data", choices=("cifar10_lt", "cifar100_lt"), default="cifar10_lt")
    packing.add_argument("--data-dir", type=pathlib.Path, required=True, help="holds the official archive")
    packing.add_argument("--wheels", action="store_true", help="also bring the packages that the other machine lacks")
    packing.add_argument("--to", type=pathlib.Path, required=True)
    running = actions.add_parser("run", help="on the machine that has the accelerator")
    running.add_argument("--packed", type=pathlib.Path, required=True)
    running.add_argument("--out", type=pathlib.Path, required=True)
    running.add_argument("--budget", type=float, default=540, help="seconds in all")
    running.add_argument("--parts", default=",".join(accelerator_parts.PARTS))
    running.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU")
    running.add_argument("--torch-python", default=PYTHON, help="a Python that has PyTorch")
    running.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir(), "lt_jax_accelerator"))
    return parser.parse_args(words)


def pack(options):
    import accelerator_pack

    if not options.data_dir.is_dir():
        expected = "expected a folder with the official archive of CIFAR"
        print(f"--data-dir: {expected}, found none at {options.data_dir}", file=sys.stderr)
        return 2
    try:
        accelerator_pack.pack(options.data, options.data_dir, options.to, options.wheels)
    except accelerator_pack.TooLarge as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options):
    """Runs what is unfinished of the chosen parts, while the time lasts. Returns the exit status."""
    deadline = time.monotonic() + options.budget
    unknown = set(options.parts.split(",")) - set(accelerator_parts.PARTS)
    if unknown:
        known = ",".join(accelerator_parts.PARTS)
        print(f"--parts: expected letters of {known}, found {','.join(sorted(unknown))}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    bring_earlier(options.packed / "results", options.out)
    setting = Setting(options)
    all_finished = True
    for part in options.parts.split(","):
        name, rows_of = accelerator_parts.PARTS[part]
        all_finished &= run_part(f"{part}_{name}", rows_of(setting), setting, options.out, deadline)
    return 0 if all_finished else 1


def bring_earlier(results, out):
    """Copies the results of an earlier call into the folder, except over newer ones."""
    for file in sorted(results.glob("*.json")) if results.is_dir() else ():
        if not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)


class Setting:
    """What the rows need: folders, the environment of their processes, and facts about the machine."""

    def __init__(self, options):
        self.work, self.out = options.work.resolve(), options.out.resolve()
        self.rehearse, self.torch_python = options.rehearse, options.torch_python
        self.manifest = json.loads((options.packed / "manifest.json").read_text())
        self.log = self.out / "run.log"
        self.environment = self._environment()
        began = time.monotonic()
        self._install(options.packed / "wheels")
        self.data = self._unpack(options.packed)
        self.about = self._facts()
        print(f"packages, images and JAX are ready after {time.monotonic() - began:.0f} s")
        print(json.dumps(self.about), flush=True)

    def _environment(self):
        cache = {"JAX_COMPILATION_CACHE_DIR": str(self.work / "jax_cache"), "PYTHONUNBUFFERED": "1"}
        environment = {**os.environ, **cache, "LT_JAX_COMMIT": self.manifest["commit"]}
        site = [str(self.work / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, site))
        if self.rehearse:
            environment |= {"JAX_PLATFORMS": "cpu", "LT_JAX_REHEARSE": "1"}
        return environment

    def _install(self, wheels):
        """Installs the wheels into a folder of their own, once; nothing that the machine has is replaced."""
        site, files = self.work / "site", sorted(map(str, wheels.glob("*.whl")))
        if site.exists() or not files:
            return
        pip = [PYTHON, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
        beside = self.work / "site.part"
        shutil.rmtree(beside, ignore_errors=True)
        subprocess.run([*pip, "--upgrade", "--target", str(beside), *files], check=True)
        beside.rename(site)

    def _unpack(self, packed):
        """Returns the folder of the archive, whose digests were compared with those of the packed images."""
        folder, complete = self.work / "data", self.work / "data" / self.manifest["digest"]
        if not complete.exists():
            command = [PYTHON, str(ROOT / "benchmarks" / "accelerator_pack.py"), "unpack", str(packed), str(folder)]
            subprocess.run(command, env=self.environment, check=True)
            complete.touch()
        return folder

    def _facts(self):
        """Returns device, backend and versions, from a process of their own: JAX would keep the accelerator here."""
        done = subprocess.run([PYTHON, "-c", FACTS], env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit("JAX does not start on this machine:\n" + "\n".join(done.stderr.splitlines()[-LINES:]))
        facts = json.loads(done.stdout.splitlines()[-1])
        return {**facts, "commit": self.manifest["commit"], "data": self.manifest["config"], "rehearsal": self.rehearse}


def run_part(name, rows, setting, out, deadline):
    """Runs the unfinished rows of a part; returns whether all of them are finished now."""
    path = out / f"{name}.json"
    results = {"about": setting.about, "rows": earlier_rows(path, setting)}
    for row in rows:
        if results["rows"].get(row.name, {}).get("status") == "ok":
            print(f"{name}: {row.name}: finished before", flush=True)
            continue
        results["rows"][row.name] = run_row(row, setting, deadline)
        write(path, results)
        print(line(name, row.name, results["rows"][row.name]), flush=True)
    return all(results["rows"][row.name]["status"] in ("ok", "not available") for row in rows)


def earlier_rows(path, setting):
    """Returns the rows of an earlier call; none if it was about another data set or a rehearsal, and this is not."""
    if not path.exists():
        return {}
    results = json.loads(path.read_text())
    same = (results["about"].get(key) == setting.about.get(key) for key in ("data", "rehearsal"))
    return results["rows"] if all(same) else {}


def run_row(row, setting, deadline):
    """Returns the result of one row: its status, and what its `read` makes of the files that it wrote."""
    if row.missing:
        return {"status": "not available", "error": [row.missing]}
    left = deadline - time.monotonic() - GRACE
    if left < min(row.least, row.seconds):
        return {"status": "no time left", "error": [f"{left:.0f} s of {min(row.least, row.seconds):.0f} are left"]}
    began, seconds = time.monotonic(), min(row.seconds, left)
    for _ in range(row.tries):  # a row that keeps what it has done goes on where a crash ended it
        code, lines = call(row, setting, seconds - (time.monotonic() - began))
        if code is None or code >= 0 or seconds - (time.monotonic() - began) < GRACE:
            break
    command = row.command_text().replace(str(setting.work), "WORK").replace(str(setting.out), "OUT")
    about = {key: setting.about.get(key) for key in ("device", "jax", "commit")}  # of this row: calls may differ
    result = {**about, "command": command, "seconds": round(time.monotonic() - began, 1)}
    is_finished = code == 0 or (code is None and row.stops)
    try:
        result["result"] = row.read()
    except Exception as error:  # no file, or half of one
        lines, is_finished = [*lines, f"no result: {type(error).__name__}: {error}"], False
    if is_finished:
        return {"status": "ok", **result}
    return {"status": "timeout" if code is None else "failed", "error": lines[-LINES:], **result}


def call(row, setting, seconds):
    """Runs the process of a row. Returns its exit status, None if its time was over, and the lines it printed."""
    environment = {**setting.environment, **row.environment}
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            row.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = wait(process, seconds)
        log.seek(0)
        lines = log.read().splitlines()
    with setting.log.open("a") as file:
        file.write("\n".join([f"=== {row.name}: {row.command_text()}", *lines, f"=== status {code}", ""]))
    return code, lines


def wait(process, seconds):
    """Returns the exit status, or None after ending the process and what it started."""
    try:
        return process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    return None


def write(path, results):
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, path)


def line(part, row, result):
    text = f"{part}: {row}: {result['status']}"
    if "seconds" in result:
        text += f", {result['seconds']:.0f} s"
    if summary := result.get("result", {}).get("summary"):
        text += f": {summary}"
    if result["status"] != "ok":
        text += f": {result['error'][-1]}" if result.get("error") else ""
    return text


if __name__ == "__main__":
    sys.exit(main())
