"""`ray start --head` of a cluster of its own, as a user would start it, with a token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysem.runs.local_ray import TOO_SLOW

RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).parents[2]
TOKEN = "fedcba9876543210" * 4
PORTS = (
    "port", "dashboard-port", "ray-client-server-port", "node-manager-port", "object-manager-port",
    "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip
HEAD_ID = "f" * 51 + "00000"
"""What Ray's provider of simulated nodes takes its head to be."""
HEAD_TYPE = "ray.head.default"
"""What the autoscaler takes the type of its head to be."""

AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}


@dataclass(frozen=True)
class HeadNode:
    """A head node that a user started, with its token in a file."""

    process: subprocess.Popen[bytes]
    address: str
    """Of its dashboard, where jobs are submitted."""
    gcs_address: str
    environment: dict[str, str]
    log: Path

    def answers(self) -> bool:
        """Whether its dashboard answers those who have the token."""
        request = urllib.request.Request(f"{self.address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that Ray knows, dead ones too, as its State API lists them."""
        request = urllib.request.Request(
            f"{self.address}/api/v0/nodes?detail=true&limit=1000", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["data"]["result"]["result"]

    def submit(self, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` of `python <arguments>` from `folder`."""
        command = [RAY, "job", "submit", "--address", self.address, "--working-dir", ".", "--", "python", *arguments]
        return subprocess.run(
            command, cwd=folder, env=self.environment | environment, capture_output=True, text=True, timeout=840
        )

    def ask(self, *question: str) -> subprocess.CompletedProcess[str]:
        """`ray job list` or `ray job logs ID`."""
        command = [RAY, "job", question[0], "--address", self.address, *question[1:]]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300)


def start_head(
    folder: Path,
    environment: Mapping[str, str],
    *,
    cpus: int,
    worker_types: Mapping[str, Any] | None = None,
    starts: int = 3,
) -> HeadNode:
    """Start a head node below `folder` and wait until it answers.

    Ray gives it 30 s to start, which a machine with other work may miss: then another is started.

    Args:
        environment: of a job; `python` becomes this one, the token a new one.
        worker_types: what an autoscaler (v2) may start as simulated nodes of this machine, by name:
            {"resources": {"CPU": 2}, "max_workers": 1}. None: no autoscaler.
        starts: how many are started at most.
    """
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(TOKEN)
    given = dict(environment) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }
    given.pop("RAY_TMPDIR", None)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    # On a machine with several Rays its workers would not know which dashboard to ask.
    given["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{ports['dashboard-port']}"
    command = [RAY, "start", "--head", "--block", "--include-dashboard=true", f"--temp-dir={folder}"]
    command += [f"--num-cpus={cpus}", "--object-store-memory", str(256 * 2**20), "--disable-usage-stats"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    if worker_types is not None:
        config = folder / "autoscaling.json"
        config.write_text(json.dumps(_autoscaling(own_address(), ports["port"], cpus, worker_types)))
        command.append(f"--autoscaling-config={config}")
        given |= AUTOSCALER
    log = folder / "head.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=given, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
        )
    # What belongs to the head alone is not for the jobs' drivers: they would take its identity.
    for name in ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"):
        given.pop(name, None)
    gcs_address = f"{own_address()}:{ports['port']}"
    head = HeadNode(process, f"http://127.0.0.1:{ports['dashboard-port']}", gcs_address, given, log)
    deadline = time.monotonic() + 300
    while not head.answers():
        if process.poll() is not None and TOO_SLOW in log.read_text() and starts > 1:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started: its session is its own
            return start_head(folder, environment, cpus=cpus, worker_types=worker_types, starts=starts - 1)
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    return head


def _autoscaling(host: str, port: int, cpus: int, worker_types: Mapping[str, Any]) -> dict[str, Any]:
    """A cluster file as the autoscaler reads it, with Ray's provider of nodes that are processes here."""
    workers = {name: {"node_config": {}, "min_workers": 0, **worker} for name, worker in worker_types.items()}
    commands = (
        "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
        "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
    )  # fmt: skip
    return {
        "cluster_name": "simulated",
        "max_workers": sum(worker["max_workers"] for worker in workers.values()),
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{host}:{port}",
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
        },
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"node_config": {}, "resources": {"CPU": cpus}, "min_workers": 0, "max_workers": 0},
            **workers,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "no_restart": False,
        **{name: [] for name in commands},
    }


def own_address() -> str:
    """The address of this machine that Ray takes for its own."""
    from ray._private.services import get_node_ip_address

    return get_node_ip_address()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def copy_of_tracked_files(folder: Path) -> Path:
    """The files that git knows, or would, as a fresh clone has them, with a version of its own."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    with (folder / "raysem" / "__init__.py").open("a") as module:
        module.write('\n__version__ = "0.0.0+clone"\n')
    return folder
