"""A process that runs named functions when it is told to, so that rows of several programs alternate in one benchmark.

The child calls `serve(rows)`. The parent makes a `Worker` for each child, waits until it is `ready`, and calls
`worker.run(name)`. Imports neither JAX nor PyTorch.
"""

import json
import resource
import subprocess
import sys
import time


def serve(rows):
    """Answers each line of standard input, the name of a row, with the seconds and processor seconds of one call."""
    for run in rows.values():  # compiles
        run()
    _answer(list(rows))
    for line in sys.stdin:
        began = time.perf_counter(), time.process_time()
        rows[line.strip()]()
        spent = time.perf_counter() - began[0], time.process_time() - began[1]
        _answer([*spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10])


def _answer(value):
    print(json.dumps(value), flush=True)


class Worker:
    """A child process that serves; `peak_mib` is the most memory that it has used."""

    def __init__(self, command, env=None):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=env, **pipes)
        self.peak_mib = 0.0

    def ready(self):
        """Waits until the child has compiled its rows, and returns their names."""
        return self._read()

    def run(self, name):
        """Returns the seconds of a call, and the processor seconds of all its threads."""
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        *spent, self.peak_mib = self._read()
        return spent

    def close(self):
        self._process.stdin.close()
        self._process.wait()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"a worker has ended: {' '.join(map(str, self._process.args))}")
        return json.loads(line)
