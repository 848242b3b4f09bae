"""A Ray cluster whose nodes are processes of this machine, to lose some of them.

    with node_cluster.started() as cluster:
        node = cluster.add_node(cpus=1)
        subprocess.run([sys.executable, "-c", driver], env=cluster.environment)
        cluster.kill_node(node)

The driver is a process of its own that finds the cluster by `cluster.environment`. The head has no CPUs: what asks for
one runs on nodes that were added.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from head_node import RAY, HeadNode, free_ports, start_head

PATIENCE_SECONDS = 180
STARTS = 4
STORE_BYTES = 100 * 2**20
NODE_PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node that is gone is missed in seconds: Ray's own settings take some 20."""
THRIFT = {
    "RAY_prestart_worker_first_driver": "0",  # nobody would use most of them
    "RAY_worker_niceness": "0",  # other tests that run at the same time would starve the workers
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
}


class NodeCluster:
    """A head without CPUs and the nodes that a test adds to it."""

    def __init__(self, head: HeadNode, folder: Path):
        self.head = head
        self.folder = folder
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def sessions(self) -> list[subprocess.Popen[bytes]]:
        """The first process of the head and of each node that was not killed; a drained one may have ended."""
        return [self.head.process, *self._nodes.values()]

    @property
    def address(self) -> str:
        """Of the cluster, for `ray.init` and `cluster.address`; RAY_ADDRESS in `environment`."""
        return self.head.gcs_address

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver, with what it needs to join: `ray.init()` finds this cluster, and is let in."""
        return self.head.environment | {"RAY_ADDRESS": self.address}

    def add_node(self, cpus: float) -> str:
        """Start a node and wait until the cluster has it; returns its id.

        Ray gives a node 30 s to start, which a machine with other work may miss: then another is started.
        """
        for _ in range(STARTS):
            node_id = self._started(cpus)
            if node_id is not None:
                return node_id
        raise AssertionError("\n".join(log.read_text() for log in self.folder.glob("node-*.log")))

    def _started(self, cpus: float) -> str | None:
        """A new node's id; None when it ended before the cluster had it."""
        node_id = uuid.uuid4().hex + uuid.uuid4().hex[:24]
        command = [RAY, "start", "--block", f"--address={self.address}", f"--num-cpus={cpus:g}"]
        command += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        # From Ray's usual range several nodes of one machine would take the same ports.
        command += ["--min-worker-port=0", "--max-worker-port=0"]
        command += [f"--{name}={port}" for name, port in zip(NODE_PORTS, free_ports(len(NODE_PORTS)), strict=True)]
        log = self.folder / f"node-{node_id[:8]}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, env=self.head.environment | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id},
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        self._nodes[node_id] = process

        wait_for(lambda: process.poll() is not None or node_id in self.live_nodes(), f"node {node_id} of {log}")
        return node_id if process.poll() is None else None

    def kill_node(self, node_id: str) -> None:
        """SIGKILL to a node's raylet and all that runs on it, as when its machine is taken away; waits for nothing."""
        _kill(_processes_of([self._nodes.pop(node_id)]))

    def drain_node(self, node_id: str, *, deadline_seconds: int | None = None) -> None:
        """Tell the cluster that a node will be taken away, as a cloud does; nothing new starts there.

        At the deadline Ray ends the node itself; without one it does so when nothing runs there any more.
        """
        command = [RAY, "drain-node", "--address", self.address, "--node-id", node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away by a test"]
        if deadline_seconds is not None:
            command += ["--deadline-remaining-seconds", str(deadline_seconds)]
        done = subprocess.run(command, env=self.head.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def live_nodes(self) -> set[str]:
        """The ids of the nodes that the cluster takes to be alive, without the head."""
        return {node["node_id"] for node in self.head.nodes() if node["state"] == "ALIVE" and not node["is_head_node"]}


@contextlib.contextmanager
def started(environment: Mapping[str, str] | None = None) -> Iterator[NodeCluster]:
    """A head without CPUs; afterwards none of its processes is left, drivers included.

    Args:
        environment: more for Ray's processes and for the drivers, such as PYTHONPATH of the workers.
    """
    folder = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))  # short: a socket's path may have 107 characters
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    given = kept | THRIFT | HEALTH_CHECKS | dict(environment or {})
    cluster: NodeCluster | None = None
    try:
        cluster = NodeCluster(start_head(folder / "h", given, cpus=0), folder)
        yield cluster
    finally:
        while left := _processes_of(cluster.sessions if cluster else [], folder):
            _kill(left)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Ask until it is so; AssertionError naming `what` when that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.2)


def _kill(processes: Sequence[psutil.Process]) -> None:
    """The raylets first: they start no new worker, and have no time to report what ends."""
    for process in sorted(processes, key=lambda each: not _is_raylet(each)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=60)


def _is_raylet(process: psutil.Process) -> bool:
    try:
        return process.name() == "raylet"
    except psutil.Error:
        return False


def _processes_of(sessions: Sequence[subprocess.Popen[bytes]], folder: Path | None = None) -> list[psutil.Process]:
    """Live processes of the sessions that these began, and those whose command or token lies in `folder`.

    Ray's agents outlive their raylet for a minute, and overwrite command and environment: only the session is left.
    """
    leaders = {process.pid for process in sessions}

    def belongs(process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if os.getsid(process.pid) in leaders:
                return True
            words = (*process.cmdline(), *process.environ().values()) if folder else ()
            return any(str(folder) in word for word in words)
        except (psutil.Error, OSError):
            return False

    return [process for process in psutil.process_iter() if belongs(process)]
