"""Sets up a virtual environment and runs the demo, the tests or the linters in it; `USAGE` says how."""

import hashlib
import os
import pathlib
import subprocess
import sys

# A constant, since python -OO removes docstrings.
USAGE = """\
Sets up a virtual environment of its own in `.venv` and runs a command in it. Needs only Python and pip.

    python3 launch/setup.py demo [flags of lt_jax.main]
    python3 launch/setup.py test [arguments of pytest]
    python3 launch/setup.py lint     ruff check, ruff format --check and mypy; changes no file

A second call installs nothing and starts at once. LT_JAX_VENV names another place for the environment.
"""
ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = pathlib.Path(os.environ.get("LT_JAX_VENV", ROOT / ".venv"))
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
LINT = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
TESTED = sorted(path.stem.removeprefix("constraints-") for path in (ROOT / "launch").glob("constraints-*.txt"))


def main(words):
    if not words or words[0] not in ("demo", "test", "lint") or (words[0] == "lint" and words[1:]):
        sys.exit(USAGE)
    if sys.version_info < (3, 11):  # noqa: UP036  this file runs before pip checks the version
        sys.exit(f"lt_jax needs Python 3.11 or newer; this is {MINOR}")
    python = set_up(extras="" if words[0] == "demo" else "dev")
    commands = {
        "demo": [["lt_jax.main", *words[1:]]],
        "test": [["pytest", "-n", str(os.cpu_count() or 1), *words[1:]]],
        "lint": LINT,
    }
    # All linters run, so that one call shows all errors.
    statuses = [subprocess.run([python, "-m", *c], check=False, cwd=ROOT).returncode for c in commands[words[0]]]
    return next((status for status in statuses if status), 0)


def set_up(extras):
    """Creates the environment if it is missing or its requirements have changed; returns its Python."""
    python = str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    stamp = VENV / f"lt_jax-{extras or 'core'}.stamp"
    if stamp.exists() and stamp.read_text() == fingerprint():
        return python
    create(VENV, python)
    say("installing JAX and what else is needed: a minute or two, once")
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    run([python, "-m", "pip", "install", "--progress-bar=on", "--quiet",
         "--disable-pip-version-check", "--editable", target, *constraints()])  # fmt: skip
    stamp.write_text(fingerprint())
    return python


def create(folder, python):
    """Creates a virtual environment with pip if there is none yet."""
    if not pathlib.Path(python).exists():
        say(f"making a virtual environment in {folder}")
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    if pathlib.Path(python).with_stem("pip").exists():
        return
    # Some systems ship Python without ensurepip; there the pip of this Python installs pip in the environment.
    if subprocess.run([python, "-m", "ensurepip", "--default-pip"], capture_output=True, check=False).returncode:
        run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"])


def constraints():
    """Returns the pip flags for the pinned versions; a newer Python takes the newest that pyproject.toml allows."""
    file = ROOT / "launch" / f"constraints-{MINOR}.txt"
    if file.exists():
        return ["--constraint", str(file)]
    say(f"no pinned versions for Python {MINOR} (there are some for {', '.join(TESTED)}); taking the newest allowed")
    return []


def fingerprint():
    """Returns a digest of the requirements, the pins, the Python version and this file."""
    files = [ROOT / "pyproject.toml", ROOT / "launch" / f"constraints-{MINOR}.txt", pathlib.Path(__file__)]
    content = b"".join(file.read_bytes() for file in files if file.exists())
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def run(command):
    try:
        subprocess.run(command, check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"lt_jax set-up: {' '.join(command[:4])} ... failed ({error})")


def say(line):
    print(f"[set-up] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
