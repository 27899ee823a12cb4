"""The three ways a run ends early, each with its exit status."""


class BadInput(ValueError):
    """The user can mend it: a key, a flag, a file. Exit status 2, one line."""


class RunFailed(RuntimeError):
    """The run failed by itself; the last good checkpoint is kept. Exit status 1, one line."""


class Stopped(RuntimeError):
    """Stopped by a signal after saving; the same command resumes. Exit status 75, one line."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says first, for a line of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def reason(error: OSError) -> str:
    """What the system says of a file, in lower case: "no such file or directory"."""
    return (error.strerror or str(error)).lower()


EXIT_STATUS = {BadInput: 2, RunFailed: 1, Stopped: 75}
