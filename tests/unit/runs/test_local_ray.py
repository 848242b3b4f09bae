"""A local Ray that does not get up in time is taken down and started again."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import psutil
import pytest

from raysem.errors import StageError
from raysem.runs import local_ray

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


class SlowRay:
    """In the place of `ray`: each start leaves a process behind; the first ones fail."""

    def __init__(self, *errors: Exception):
        self.errors = list(errors)
        self.ports: list[int] = []
        self.left: list[subprocess.Popen[bytes]] = []

    def init(self, *, dashboard_port: int, **_: Any) -> None:
        self.ports.append(dashboard_port)
        self.left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]))
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self) -> None:
        """Nothing: what is left is for its caller to end."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be called when the interpreter ends."""
    ends: list[Any] = []
    monkeypatch.setattr(local_ray.atexit, "register", ends.append)
    for name in (local_ray.DASHBOARD, *local_ray.OF_ONE_MACHINE):
        monkeypatch.setenv(name, "")
    return ends


def start(slow: SlowRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ray, "ray", slow)
    local_ray.start(num_cpus=1)


def test_what_a_slow_start_left_is_ended_before_the_next(
    monkeypatch: pytest.MonkeyPatch, ends: list[Any], caplog: pytest.LogCaptureFixture
):
    slow = SlowRay(Exception(SLOW), Exception(SLOW))
    start(slow, monkeypatch)
    assert len(set(slow.ports)) == 3
    assert [psutil.pid_exists(process.pid) for process in slow.left] == [False, False, True]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "Ray did not start within 30 s; tried again (2 of 3)",
        "Ray did not start within 30 s; tried again (3 of 3)",
    ]
    (end,) = ends
    end(grace_seconds=0.0)
    assert not psutil.pid_exists(slow.left[2].pid)


def test_a_machine_that_is_always_too_slow_is_one_line(monkeypatch: pytest.MonkeyPatch, ends: list[Any]):
    slow = SlowRay(*(Exception(SLOW) for _ in range(3)))
    with pytest.raises(StageError, match=r"^Ray did not start on this machine within 30 s, 3 times; is it busy\?$"):
        start(slow, monkeypatch)
    assert not any(psutil.pid_exists(process.pid) for process in slow.left)
    assert ends == []


def test_any_other_error_is_raised_at_once(monkeypatch: pytest.MonkeyPatch):
    slow = SlowRay(ValueError("no such setting"))
    with pytest.raises(ValueError, match="no such setting"):
        start(slow, monkeypatch)
    (process,) = slow.left
    assert not psutil.pid_exists(process.pid)
