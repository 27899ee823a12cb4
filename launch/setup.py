"""Sets up a virtual environment and runs the demo, the tests, the linters or the documentation; `USAGE` says how."""

import difflib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

# A constant, since python -OO removes docstrings.
USAGE = """\
Sets up a virtual environment of its own in `.venv` and runs a command in it. Needs only Python, and pip or uv.

    python3 launch/setup.py demo [--extra=NAME] [flags of lt_jax.main]
    python3 launch/setup.py test [--extra=NAME] [arguments of pytest]
    python3 launch/setup.py lint     ruff check, ruff format --check and mypy; changes no file
    python3 launch/setup.py docs     builds the documentation in `site`; a warning is an error

The demo runs in its quick form, about half a minute on two CPU cores, unless the flags name a config or a stage.
--extra installs an extra of pyproject.toml too, as cuda12 or cuda13 for an NVIDIA GPU and tpu for a Cloud TPU. Give it
several times, or several names with commas. A second call installs nothing and starts at once. LT_JAX_VENV names
another place for the environment.
"""
ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = pathlib.Path(os.environ.get("LT_JAX_VENV") or ROOT / ".venv").absolute()
DEVICES = pathlib.Path("/dev")
QUICK = "--config=configs/digits_lt.py:quick"
QUICK_WORKDIR = "--workdir=runs/digits_quick"  # of its own, since the whole demo has another pretraining
LINT = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]
DOCS = [["mkdocs", "build", "--strict"]]


def main(words):
    if not words or words[0] not in ("demo", "test", "lint", "docs") or (words[0] in ("lint", "docs") and words[1:]):
        sys.exit(USAGE)
    if sys.version_info < (3, 11):  # noqa: UP036  this file runs before pip checks the version
        sys.exit(f"lt_jax needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    extras, flags = split_extras(words[1:])
    python = set_up(sorted(extras if words[0] == "demo" else extras | {"dev"}))
    if words[0] in ("demo", "test"):
        mention_accelerator(extras)
    commands = {
        "demo": [["lt_jax.main", *demo_flags(flags)]],
        "test": [["pytest", "-n", str(os.cpu_count() or 1), *flags]],
        "lint": LINT,
        "docs": DOCS,
    }
    if words[0] == "demo":
        say(f"running python -m {' '.join(commands['demo'][0])}")
    # All linters run, so that one call shows all errors.
    statuses = [subprocess.run([python, "-m", *c], check=False, cwd=ROOT).returncode for c in commands[words[0]]]
    return next((status for status in statuses if status), 0)


def demo_flags(flags):
    """Returns the flags of the demo: those given, behind its quick form where they name no config and no stage."""
    flag_names = {flag.partition("=")[0] for flag in flags}
    if flag_names & {"--config", "--stage"}:
        return flags
    return [QUICK, *flags] if "--workdir" in flag_names else [QUICK, QUICK_WORKDIR, *flags]


def split_extras(words):
    """Returns the set of extras that `--extra` names, and the other words."""
    import tomllib  # here, since Python 3.10 has none and gets its own message

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known, names, flags = list(project["optional-dependencies"]), set(), []
    remaining = iter(words)
    for word in remaining:
        if word == "--extra":
            word = f"--extra={next(remaining, '')}"
        if not word.startswith("--extra="):
            flags.append(word)
            continue
        for name in word.removeprefix("--extra=").split(","):
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
                sys.exit(f"lt_jax set-up: there is no extra {name!r}: {hint}")
            names.add(name)
    return names, flags


def set_up(extras):
    """Creates the environment if it is missing or its requirements have changed; returns its Python."""
    python = str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if is_installed(extras):
        return python
    create(VENV, python)
    say("installing JAX and what else is needed: a minute or two, once")
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    run([python, "-m", "pip", "install", "--progress-bar=on", "--quiet",
         "--disable-pip-version-check", "--editable", target, *constraints(python)])  # fmt: skip
    stamp = VENV / f"lt_jax-{'-'.join(extras) or 'core'}.stamp"
    stamp.write_text(fingerprint())
    return python


def is_installed(extras):
    """Whether an earlier call has installed these extras, and perhaps others, for the requirements of today."""
    stamps = [stamp for stamp in VENV.glob("lt_jax-*.stamp") if stamp.read_text() == fingerprint()]
    return any(set(extras) <= set(stamp.stem.removeprefix("lt_jax-").split("-")) for stamp in stamps)


def create(folder, python):
    """Creates a virtual environment if there is none yet, and installs pip in it if it has none, as one of uv."""
    if not pathlib.Path(python).exists():
        say(f"making a virtual environment in {folder}")
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    if pathlib.Path(python).with_stem("pip").exists():
        return
    # Some systems ship Python without ensurepip, some without pip; one of these three ways is there nearly everywhere.
    ways = [
        [python, "-m", "ensurepip", "--default-pip"],
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"],
        [shutil.which("uv") or "uv", "pip", "install", "--quiet", "--python", python, "pip"],
    ]
    if not any(succeeds(way) for way in ways):
        sys.exit("lt_jax set-up: found no way to install pip; install ensurepip, pip or uv (Debian: python3-pip)")


def constraints(python):
    """Returns the pip flags for the pinned versions; a newer Python takes the newest that pyproject.toml allows."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"  # an environment made by others may have another version
    minor = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    file = ROOT / "launch" / f"constraints-{minor}.txt"
    if file.exists():
        return ["--constraint", str(file)]
    tested = sorted(path.stem.removeprefix("constraints-") for path in pinned())
    say(f"no pinned versions for Python {minor} (there are some for {', '.join(tested)}); taking the newest allowed")
    return []


def pinned():
    """Returns the files of pinned versions."""
    return sorted((ROOT / "launch").glob("constraints-*.txt"))


def fingerprint():
    """Returns a digest of the requirements, the pins, the Python version and this file."""
    files = [ROOT / "pyproject.toml", *pinned(), pathlib.Path(__file__)]
    content = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def mention_accelerator(extras):
    """Says which extra this machine's accelerator needs, if the environment has none for it."""
    device, fitting = accelerator()
    is_installed = any(any(VENV.glob(f"lib/python*/site-packages/{name}*")) for name in ("jax_cuda", "libtpu"))
    if fitting and not is_installed and not extras & {"cuda12", "cuda13", "tpu"}:
        say(f"there is {device}, and JAX here runs on the CPU alone: give --extra={' or --extra='.join(fitting)}")


def accelerator():
    """Returns (words for this machine's accelerator, the extras that fit); no extras where there is no accelerator."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = succeeds(query).partition(".")[0].strip() if shutil.which("nvidia-smi") else ""
    if driver.isdigit():
        return "an NVIDIA GPU", ["cuda13" if int(driver) >= 580 else "cuda12"]  # 580 is the first driver of CUDA 13
    if (DEVICES / "nvidia0").exists():
        return "an NVIDIA GPU", ["cuda12", "cuda13"]
    if any(DEVICES.glob("accel[0-9]*")) or any(DEVICES.glob("vfio/[0-9]*")):
        return "a TPU", ["tpu"]
    return "", []


def succeeds(command):
    """Returns what the command printed, or "ok" where that is nothing, and "" where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout or "ok"


def run(command):
    try:
        subprocess.run(command, check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"lt_jax set-up: {' '.join(command[:4])} ... failed ({error})")


def say(line):
    print(f"[set-up] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
