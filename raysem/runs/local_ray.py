"""A Ray of this machine alone, which ends with this process and with every process that it started."""

from __future__ import annotations

import atexit
import logging
import os
import socket
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
import ray

log = logging.getLogger(__name__)

DASHBOARD = "RAY_API_SERVER_ADDRESS"
OF_ONE_MACHINE = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # each report of a rank waits for the next look, and so does the end
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away; it is a process of its own
    "RAY_idle_worker_killing_time_threshold_ms": "10000",  # processes with torch serve the next stage, too
}
"""What Ray does otherwise for a cluster. What the user has set stays."""
GRACE_SECONDS = 5.0
"""How long a process of Ray may take to end by itself; most take less than one."""


def start(**settings: Any) -> None:
    """`ray.init` of a new Ray, with these settings of it, that is taken down when this interpreter ends.

    Its workers are told where its dashboard is. Ray Train gives the CPUs of a finished run back by asking there, and on
    a machine with more than one Ray it would not know which one to ask: the CPUs would stay taken, the run would hang.

    Ray's own end leaves to each worker to notice it. One that hangs in its own end then (an actor of Ray Train was
    seen to) would stay for ever, with its memory.
    """
    before = set(psutil.Process().children())
    port = _free_port()
    os.environ[DASHBOARD] = f"http://127.0.0.1:{port}"
    for name, value in OF_ONE_MACHINE.items():
        os.environ.setdefault(name, value)
    # "local": without an address Ray would join whatever `ray start` left on this machine, and refuse num_cpus there.
    ray.init(address="local", include_dashboard=True, dashboard_port=port, **settings)
    started = [process for process in psutil.Process().children() if process not in before]
    atexit.register(partial(_end, started))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _end(started: list[psutil.Process]) -> None:
    family = list(started)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    ray.shutdown()
    _, left = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    for process in left:
        log.info("%s did not end with its Ray; killed", process)
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_SECONDS)
