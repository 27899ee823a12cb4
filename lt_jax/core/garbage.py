"""The garbage collector of Python, told to run less often."""

import atexit
import gc


def collect_rarely() -> None:
    """Makes this process look for unreachable cycles less often, and not at its end.

    Tracing a program makes hundreds of thousands of objects that live as long as the process. By default the collector
    visits them again and again, and once more when the interpreter ends: about a tenth of the time of a short run.
    Cycles are still found, after more new objects.
    """
    gc.set_threshold(100_000, 10, 10)
    atexit.register(gc.freeze)
