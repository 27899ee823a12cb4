"""Freed memory is kept by the process where glibc is the C library."""

import platform
import subprocess
import sys

import pytest

# 64 MiB are allocated, touched and freed 20 times; the page faults of the last 10 rounds are counted.
CODE = """
import ctypes, resource, sys
from lt_jax.core import allocator
if sys.argv[1] == "keep":
    assert allocator.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.free.argtypes = None
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
for number in range(20):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_not_cleared_again():
    faults = {
        word: int(subprocess.run([sys.executable, "-c", CODE, word], capture_output=True, check=True).stdout)
        for word in ("keep", "return")
    }
    assert faults["keep"] < 100 < faults["return"]
