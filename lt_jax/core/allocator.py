"""The memory allocator of the C library, told to keep freed memory for the next step."""

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory instead of returning it to the kernel; False where there is no glibc.

    On a CPU every training step frees its temporaries. By default glibc returns large blocks to the kernel, which must
    then clear the same pages again for the next step: a quarter of the time. The process keeps its peak memory until
    it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _LARGEST, _M_ARENA_MAX: 1}
    return all([libc.mallopt(name, value) for name, value in settings.items()])
