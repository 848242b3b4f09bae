"""A Ray of this machine alone, which ends with this process and with every process that it started."""

from __future__ import annotations

import atexit
import logging
import os
import socket
from collections.abc import Mapping, Set
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
import ray

from raysem.errors import StageError

log = logging.getLogger(__name__)

DASHBOARD = "RAY_API_SERVER_ADDRESS"
OF_ONE_MACHINE = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # each report of a rank waits for the next look, and so does the end
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away; it is a process of its own
    "RAY_idle_worker_killing_time_threshold_ms": "10000",  # processes with torch serve the next stage, too
}
"""What Ray does otherwise for a cluster. What the user has set stays."""
STARTS = 3
TOO_SLOW = "timed out during startup"
"""What Ray says when its first node took longer than 30 s, which no setting of it changes."""
GRACE_SECONDS = 5.0
"""How long a process of Ray may take to end by itself; most take less than one."""


def start(**settings: Any) -> None:
    """`ray.init` of a new Ray, with these settings of it, that is taken down when this interpreter ends.

    Its workers are told where its dashboard is. Ray Train gives the CPUs of a finished run back by asking there, and on
    a machine with more than one Ray it would not know which one to ask: the CPUs would stay taken, the run would hang.

    Ray's own end leaves to each worker to notice it. One that hangs in its own end then (an actor of Ray Train was
    seen to) would stay for ever, with its memory.

    Raises:
        StageError: Ray did not get up within its time, three times: the machine has too much other work.
    """
    for name, value in OF_ONE_MACHINE.items():
        os.environ.setdefault(name, value)
    for left in reversed(range(STARTS)):
        before = set(psutil.Process().children())
        try:
            _start(settings)
        except Exception as error:  # Ray has no class of its own for it
            _end(_children_since(before), grace_seconds=0.0)
            if TOO_SLOW not in str(error):
                raise
            if not left:
                raise StageError(
                    f"Ray did not start on this machine within 30 s, {STARTS} times; is it busy?"
                ) from None
            log.warning("Ray did not start within 30 s; tried again (%d of %d)", STARTS - left + 1, STARTS)
        else:
            atexit.register(partial(_end, _children_since(before)))
            return


def _start(settings: Mapping[str, Any]) -> None:
    port = _free_port()
    os.environ[DASHBOARD] = f"http://127.0.0.1:{port}"
    # "local": without an address Ray would join whatever `ray start` left on this machine, and refuse num_cpus there.
    ray.init(address="local", include_dashboard=True, dashboard_port=port, **settings)


def _children_since(before: Set[psutil.Process]) -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if process not in before]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _end(started: list[psutil.Process], *, grace_seconds: float = GRACE_SECONDS) -> None:
    family = list(started)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    ray.shutdown()
    _, left = psutil.wait_procs(family, timeout=grace_seconds)
    for process in left:
        if grace_seconds:
            log.info("%s did not end with its Ray; killed", process)
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_SECONDS)
