"""The main job on an autoscaling cluster that starts without workers, and loses one in the middle.

The nodes are processes of this machine, started and ended by Ray's autoscaler (v2) as it would machines; their GPUs are
numbers. Everything the job reads and writes lies on an S3 store that fails now and then. Where it is, the recipe alone
says: the nodes know their credentials only.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faulty_store
import psutil
import pyarrow as pa
import pytest
from faulty_store import FaultyStore
from head_node import RAY, ROOT, HeadNode, start_head

from raysem import storage
from raysem.ledger import Ledger

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1500)]

PATIENCE_SECONDS = 900
WORKER_TYPES = {
    "cpu": {"resources": {"CPU": 2}, "max_workers": 2},
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 1},
}
WHERE_S3_IS = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION")
SETTINGS = (
    "--set", "cluster.local_cpus=null",
    "--set", "cluster.embedding.gpus_per_worker=1",
    "--set", "cluster.training_on_gpus=false",  # they are numbers: NCCL would look for real ones
)  # fmt: skip


def only_folder(parent: str) -> str:
    """The folder of a stage: the one named by its digest."""
    (folder,) = storage.list_folders(parent)
    return folder


def read_shards(folder: str, kind: str = "shards") -> dict[str, pa.Table]:
    return {storage.name_of(file): storage.read_table(file) for file in Ledger(folder).files(kind)}


@pytest.fixture(scope="module")
def store() -> Iterator[FaultyStore]:
    with faulty_store.started(seed=1, share=0.03) as store, pytest.MonkeyPatch.context() as monkeypatch:
        store.enter(monkeypatch)
        storage.fsspec.filesystem("s3").clear_instance_cache()
        yield store
        storage.fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def head(job: Any, store: FaultyStore) -> Iterator[HeadNode]:
    """A head without CPUs for work, and an autoscaler that may start three nodes."""
    environment = {name: value for name, value in job.environment.items() if name not in WHERE_S3_IS}
    head = start_head(job.ray_folder / "growing", environment, cpus=0, worker_types=WORKER_TYPES)
    yield head
    job.kill(head.process)


@dataclass(frozen=True)
class Lived:
    """A run on the growing cluster: where it is, what it printed, and what was seen of the nodes meanwhile."""

    output: str
    printed: str
    at_first: int
    most: int
    killed: str


def working(head: HeadNode) -> dict[str, dict[str, float]]:
    """The resources of the live nodes that are not the head, by node."""
    return {
        node["node_id"]: node["resources_total"]
        for node in head.nodes()
        if node["state"] == "ALIVE" and not node["is_head_node"]
    }


def kill_node(head: HeadNode, node_id: str) -> None:
    """SIGKILL to a node's raylet, as when its machine is taken away."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if process.name() == "raylet" and any(node_id in word for word in words):
                process.send_signal(signal.SIGKILL)
                return
    raise AssertionError(f"no raylet of {node_id}: {head.log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def lived(job: Any, head: HeadNode, store: FaultyStore, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """The smoke job, submitted; a node that decodes is killed when some shards of the pool are embedded."""
    output = f"{store.create_bucket('grown')}/smoke"
    log = tmp_path_factory.mktemp("submitted") / "log"
    where = ("--set", f"cluster.storage.endpoint_url={store.endpoint}", "--set", "cluster.storage.region=us-east-1")
    script, *arguments = job.arguments(output, *SETTINGS, *where)
    at_first = len(working(head))
    # Without a working directory: nodes of one machine would share it, and the first that goes would take it along.
    command = [RAY, "job", "submit", "--address", head.address, "--", "python"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, str(ROOT / script), *arguments],
            env=head.environment, stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    most, killed = 0, ""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None:
        nodes = working(head)
        most = max(most, len(nodes))
        if not killed:
            done = [
                key for key in list(store.asked) if key.startswith("PUT ") and "/embed/wild/" in key and "/done/" in key
            ]
            cpus = [node for node, resources in nodes.items() if not resources.get("GPU")]
            if len(done) >= 2 and cpus:
                killed = cpus[0]
                kill_node(head, killed)
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"waited for too long: {log.read_text()[-6000:]}")
        time.sleep(2)
    assert process.returncode == 0, log.read_text()[-6000:]
    return Lived(output, log.read_text(), at_first, most, killed)


def test_a_run_on_a_growing_cluster_that_loses_a_node_ends_as_one_on_this_machine(
    lived: Lived, request: pytest.FixtureRequest
):
    finished = request.getfixturevalue("finished")  # asked for late: another test process may be at work on it
    expected, output = str(finished[0]), lived.output
    assert lived.at_first == 0
    assert lived.most >= 2
    assert lived.killed
    summaries = [storage.read_json(storage.join(folder, "summary.json")) for folder in (output, expected)]
    for key in ("counts", "evaluation", "differences"):
        assert summaries[0][key] == summaries[1][key], key
    for stage in ("embed/captions", "embed/wild", "match", "select/DU_0.3"):
        found, wanted = (only_folder(storage.join(root, stage)) for root in (output, expected))
        assert read_shards(found), stage
        tables, others = read_shards(found), read_shards(wanted)
        if stage.startswith("select"):  # where a clip lies: beside the table on a disk, inside it on a store
            tables, others = (
                {name: table.drop_columns("audio") for name, table in each.items()} for each in (tables, others)
            )
        assert tables == others, stage
    for model in ("teacher", "student/student"):
        found, wanted = (only_folder(storage.join(root, model)) for root in (output, expected))
        fingerprints = [storage.read_json(f"{folder}/model.json")["fingerprint"] for folder in (found, wanted)]
        assert fingerprints[0] == fingerprints[1], model


def test_the_store_failed_in_every_way_meanwhile(lived: Lived, store: FaultyStore):
    assert min(store.done[kind] for kind in ("slow_down", "reset", "truncated", "slow_body")) >= 1, store.done


def test_the_nodes_go_away_when_the_work_is_done(lived: Lived, head: HeadNode):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while working(head):
        assert time.monotonic() < deadline, working(head)
        time.sleep(2)
    assert head.answers()


def test_no_credential_is_in_what_was_printed_or_written(lived: Lived):
    assert "made-up" not in lived.printed
    for name in ("recipe.yaml", "summary.json", "run.json"):
        assert b"made-up" not in storage.read_bytes(storage.join(lived.output, name))
    assert not Path("s3:").exists()


def test_status_reads_the_files_of_a_run_on_the_store(job: Any, lived: Lived):
    command = [sys.executable, "-m", "raysem.cli", "status", lived.output]
    done = subprocess.run(command, capture_output=True, text=True, env=job.environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"finished  embed/wild .* 20 of 20 shards, 80 rows", done.stdout)
    assert "driver at work: none" in done.stdout
    asked = subprocess.run([*command, "--json"], capture_output=True, text=True, env=job.environment, timeout=300)
    assert {stage["state"] for stage in json.loads(asked.stdout)["stages"]} == {"finished"}


def test_the_same_command_on_this_machine_skips_everything(job: Any, lived: Lived):
    sessions = job.ray_sessions()
    done = job.run(lived.output, *SETTINGS)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "0 stages run, " in done.stdout
    assert job.ray_sessions() == sessions


def test_a_bucket_that_is_not_there_is_one_line_before_ray_starts(job: Any, store: FaultyStore):
    sessions = job.ray_sessions()
    for more in ((), ("--dry-run",)):
        done = job.run("s3://no-such-bucket/run", *more)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("curate_and_train: ")]
        assert line == "curate_and_train: s3://no-such-bucket/run: there is no bucket 'no-such-bucket'"
        assert "Traceback" not in done.stderr
    assert job.ray_sessions() == sessions


def test_a_refused_key_is_one_line_before_ray_starts(job: Any, store: FaultyStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "refused", ("/closed",))
    sessions = job.ray_sessions()
    done = job.run("s3://closed/run")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("curate_and_train: ")]
    assert line.startswith("curate_and_train: s3://closed/run: cannot be reached or used (PermissionError: ")
    assert job.ray_sessions() == sessions
