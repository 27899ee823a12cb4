"""The three exceptions that end a run early, with their exit statuses."""


class BadInput(ValueError):
    """Invalid user input: a config key, a flag or a file. Exit status 2, one line."""


class RunFailed(RuntimeError):
    """The run failed; the last good checkpoint is kept. Exit status 1, one line."""


class Stopped(BaseException):
    """Stopped by a signal after saving; the same command resumes. Exit status 75, one line.

    A BaseException, as KeyboardInterrupt is: code that handles the errors of a reader must not take it for one.
    """


def first_line(error: BaseException) -> str:
    """First line of the message of an error, or its type, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def reason(error: OSError) -> str:
    """Reason of a file error in lower case, such as "no such file or directory"."""
    return (error.strerror or str(error)).lower()


EXIT_STATUS = {BadInput: 2, RunFailed: 1, Stopped: 75}
