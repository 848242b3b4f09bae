"""Memory that a piece of code takes, measured in a process of its own."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

_FRAME = """
import resource, sys
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
"""


def growth_mib(prepare: str, attack: str, *arguments: object) -> float:
    """Growth of the peak memory while `attack` runs, after `prepare`; both see `sys.argv[1:]` as `arguments`."""
    code = f"{_FRAME}{prepare}\nbefore = peak()\n{attack}\nprint('MiB', peak() - before)"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split("MiB")[-1])


def write_gzip(file: Path, first: bytes, filling: bytes, times: int, last: bytes = b"") -> Path:
    """A gzip of `first`, `filling` over and over, and `last`: as many members, so that it is written at once."""
    packed = gzip.compress(filling)
    file.write_bytes(gzip.compress(first) + packed * times + gzip.compress(last))
    return file
