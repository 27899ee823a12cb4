"""Lock of a work directory: only one running process may use it, the owner in `lock.json`.

On the owner's machine the system tells whether its process is still running, so a killed run does not block others. On
other machines only the file is visible: the owner rewrites it every few seconds, and another run takes over if it is
unchanged for a minute. Several processes of one run are one owner. Buckets work the same way.
"""

import contextlib
import json
import os
import pathlib
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from lt_jax.core import distributed, errors, files, log

_NAME = "lock.json"
_BEAT_S = 10.0  # interval between writes of the owner
_WATCH_S = 60.0  # time without a write after which an owner on another machine counts as dead
_LOOK_S = 1.0  # interval between reads of the lock of another machine
_SETTLE_S = 1.0  # delay until a write is visible to all, if file locks are not available


@contextlib.contextmanager
def owned(workdir: epath.Path) -> Iterator[None]:
    """Context in which this run owns the work directory.

    Raises:
      BadInput: another running process owns it.
    """
    lock = None
    refusal = ""
    if distributed.is_main():
        try:
            lock = _Lock(workdir)
        except errors.BadInput as error:
            refusal = str(error)
    if not distributed.agree(not refusal):
        raise errors.BadInput(refusal or f"{workdir} is in use by another run")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


class _Lock:
    """Acquires the lock, rewrites it from a thread, and removes it on release."""

    def __init__(self, workdir: epath.Path):
        self._path = workdir / _NAME
        self._owner = _this_process(workdir)
        self._acquire()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lt_jax lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.unlink()

    def _acquire(self) -> None:
        ignored = None  # content of a lock whose owner is known to be dead
        while True:
            with _exclusive(self._path.parent) as is_exclusive:
                content = _read(self._path)
                owner = _parse(content)
                if content is None or content == ignored or _is_dead(owner, self._owner):
                    self._write()
                    break
                if _lives_here(owner, self._owner):
                    raise errors.BadInput(_refusal(self._path.parent, owner))
            _watch(self._path, content, owner)
            ignored = content
        if not is_exclusive:
            time.sleep(_SETTLE_S)
            if not self._is_ours():
                raise errors.BadInput(_refusal(self._path.parent, _parse(_read(self._path))))

    def _beat(self) -> None:
        while not self._released.wait(_BEAT_S):
            with contextlib.suppress(OSError, *errors.EXIT_STATUS):  # a full disk, or a network away for a moment
                owner = _parse(_read(self._path))
                if owner and owner.get("token") != self._owner["token"]:
                    _end(_taken_over(self._path.parent, owner))
                if _is_bucket(self._path) or self._path.parent.exists():
                    self._write()

    def _write(self) -> None:
        self._owner["beat"] = time.time()
        content = json.dumps(self._owner, indent=1).encode()
        if _is_bucket(self._path):
            self._path.write_bytes(content)
            return
        beside = self._path.with_name(f"{_NAME}.tmp{os.getpid()}")
        with files.clear_errors(self._path):
            beside.write_bytes(content)
            os.replace(beside, self._path)

    def _is_ours(self) -> bool:
        return (_parse(_read(self._path)) or {}).get("token") == self._owner["token"]


def _this_process(workdir: epath.Path) -> dict[str, Any]:
    return {
        "token": uuid.uuid4().hex,
        "machine": _machine(),
        "host": platform.node(),
        "process": os.getpid(),
        "process_started": _started(os.getpid()),
        "directory": _inode(workdir),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _machine() -> str:
    """Identifies machine, boot and container; equal for two processes that can see each other."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(process: int) -> int | None:
    """Start time of the process in system ticks; None if it does not exist or is unknown."""
    try:
        state, *fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _inode(workdir: epath.Path) -> int | None:
    """Inode of the directory, which differs from that of a copy, on any machine; None in a bucket."""
    return None if _is_bucket(workdir) else os.stat(workdir).st_ino


def _is_dead(owner: Any, us: Any) -> Any:
    """Whether the owner has certainly ended, or the lock is part of a copied directory."""
    if owner is None:
        return False
    if owner["directory"] != us["directory"]:
        return True
    return owner["machine"] == us["machine"] and not _is_running(owner)


def _lives_here(owner: Any, us: Any) -> Any:
    return owner is not None and owner["machine"] == us["machine"] and _is_running(owner)


def _is_running(owner: Any) -> Any:
    if owner["process_started"] is not None:
        return _started(owner["process"]) == owner["process_started"]
    try:
        os.kill(owner["process"], 0)  # signal 0 only checks whether the process exists
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _watch(path: Any, content: Any, owner: Any) -> Any:
    """Waits until the lock is unchanged for `_WATCH_S`, so that its owner must be dead, or is removed.

    Raises:
      BadInput: the owner wrote the lock.
    """
    log.say(f"{path} belongs to {_who(owner)}: waiting {_WATCH_S:.0f} s to see whether that run is alive")
    deadline = time.monotonic() + _WATCH_S
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        now = _read(path)
        if now is None:
            return
        if now != content:
            raise errors.BadInput(_refusal(path.parent, _parse(now) or _parse(content)))  # it may be half written


def _refusal(workdir: epath.Path, owner: Any) -> Any:
    return (
        f"{workdir} is in use by {_who(owner)}; wait until that run has ended, or stop it, or choose another --workdir"
    )


def _taken_over(workdir: epath.Path, owner: Any) -> Any:
    return f"{workdir} was taken over by {_who(owner)}, since this process was stalled; nothing is lost"


def _who(owner: Any) -> Any:
    if owner is None:
        return "an unknown run"
    return f"process {owner['process']} on {owner['host']} (since {owner['since']})"


def _end(line: Any) -> Any:
    """Exits at once, since further writes would go into the files of another run."""
    print(f"lt_jax: {line}", file=sys.stderr, flush=True)
    os._exit(1)


def _read(path: epath.Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse(content: bytes | None) -> dict[str, Any] | None:
    """The owner in the lock file; None if there is no file or it is invalid."""
    try:
        owner = json.loads(content) if content else None
    except ValueError:
        return None
    names = {"token", "machine", "host", "process", "process_started", "directory", "since"}
    return owner if isinstance(owner, dict) and names <= owner.keys() else None


@contextlib.contextmanager
def _exclusive(folder: epath.Path) -> Iterator[Any]:
    """Context that excludes other processes of this machine; yields whether this is possible."""
    try:
        import fcntl

        descriptor = os.open(os.fspath(folder), os.O_RDONLY) if not _is_bucket(folder) else None
    except (ImportError, OSError):
        descriptor = None
    if descriptor is None:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _is_bucket(path: epath.Path) -> bool:
    return "://" in os.fspath(path)
