"""The rate of Python's garbage collector in a process of the command."""

import subprocess
import sys

CODE = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # runs after what is registered later
from lt_jax.core import garbage
before = gc.get_threshold()
garbage.collect_rarely()
print(gc.get_threshold()[0] > before[0], gc.isenabled())
"""


def test_collections_are_rare_and_the_last_one_has_nothing_to_visit():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


def test_cycles_are_still_freed():
    code = """
import weakref
from lt_jax.core import garbage
garbage.collect_rarely()
class Node: pass
first = Node(); first.own = first
alive = weakref.ref(first)
del first
kept = [[] for _ in range(300_000)]  # new objects, so that the collector runs
print(alive() is None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
