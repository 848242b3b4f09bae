"""`ray job submit` of the main job from a fresh clone, to a cluster of this machine that asks for a token."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raysem import storage

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "fedcba9876543210" * 4
PORTS = (
    "port", "dashboard-port", "ray-client-server-port", "node-manager-port", "object-manager-port",
    "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """A head node of two CPUs that a user started, with its token in a file."""

    process: subprocess.Popen[bytes]
    address: str
    environment: dict[str, str]

    def answers(self) -> bool:
        """Whether its dashboard answers those who have the token."""
        request = urllib.request.Request(f"{self.address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

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


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def cluster(job: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`ray start --head` as a user would, with the environment in which `python` is this one."""
    folder = job.ray_folder / "head"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    environment = job.environment | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }
    del environment["RAY_TMPDIR"]
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [RAY, "start", "--head", "--block", "--include-dashboard=true", f"--temp-dir={folder}", "--num-cpus=2"]
    command += ["--object-store-memory", str(256 * 2**20), "--disable-usage-stats"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
        )
    started = Cluster(process, f"http://127.0.0.1:{ports['dashboard-port']}", environment)
    deadline = time.monotonic() + 300
    while not started.answers():
        assert process.poll() is None, (folder / "head.log").read_text()
        assert time.monotonic() < deadline, (folder / "head.log").read_text()
        time.sleep(0.5)
    yield started
    job.kill(process)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, as a fresh clone has them, with a version of its own."""
    folder = tmp_path_factory.mktemp("clone") / "raysem"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    with (folder / "raysem" / "__init__.py").open("a") as module:
        module.write('\n__version__ = "0.0.0+clone"\n')
    return folder


def test_the_job_runs_on_a_cluster_that_asks_for_a_token_and_leaves_it_running(
    job: Any, cluster: Cluster, clone: Path, tmp_path: Path
):
    output = tmp_path / "out"
    arguments = job.arguments(output, "--set", "teacher.training.steps=20", "--set", "cluster.local_cpus=null")
    (tmp_path / "other").write_text("another token, another token, another token")
    refused = cluster.submit(clone, *arguments, RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"))
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()
    assert not output.exists()

    done = cluster.submit(clone, *arguments)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "succeeded" in done.stdout
    assert f"report: {output}/report/index.html" in done.stdout
    summary = storage.read_json(str(output / "summary.json"))
    assert summary["raysem"] == "0.0.0+clone"  # the code that came with the job, not one that is installed
    assert summary["counts"]["wild"]["clips"] == sum(summary["counts"]["wild"]["outcomes"].values()) == 80
    assert set(summary["models"]) == {"teacher", "student"}
    assert (output / "report" / "index.html").stat().st_size > 10_000
    assert not (output / "_lock.json").exists()

    assert cluster.process.poll() is None
    assert cluster.answers()
    listed = cluster.ask("list")
    assert listed.returncode == 0
    assert "SUCCEEDED" in listed.stdout


def test_a_job_that_fails_says_so_in_one_line_and_in_its_status(
    job: Any, cluster: Cluster, clone: Path, tmp_path: Path
):
    done = cluster.submit(clone, *job.arguments(tmp_path / "out", "--set", "curation.strategy=DUU"))
    assert done.returncode == 1
    (submission,) = set(re.findall(r"raysubmit_\w+", done.stdout + done.stderr))
    # Of a job that ends at once `submit` may have shown nothing yet when it ends too.
    printed = cluster.ask("logs", submission).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("curate_and_train: ")]
    assert line.endswith("curation.strategy: expected 'DU', 'DS' or 'ADS', got 'DUU'")
    assert "Traceback" not in printed
    assert cluster.answers()
