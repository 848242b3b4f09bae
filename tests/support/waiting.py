"""Waiting for what another thread or process does: a condition, or a line of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return when the condition holds; AssertionError when it does not come about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def next_line(process: subprocess.Popen[str]) -> str:
    """What the process says next, without the end of the line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
