"""The main job with every file on an S3 store that fails now and then ends as one on a disk that does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_store
import pyarrow as pa
import pytest
from faulty_store import FaultyStore

from raysem import storage
from raysem.ledger import Ledger

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

KINDS = {"slow_down", "reset", "lost_answer", "truncated", "slow_body"}
SHARE = 0.05


def only_folder(parent: str) -> str:
    """The folder of a stage: the one named by its digest."""
    (folder,) = storage.list_folders(parent)
    return folder


def read_shards(folder: str, kind: str = "shards") -> dict[str, pa.Table]:
    return {storage.name_of(file): storage.read_table(file) for file in Ledger(folder).files(kind)}


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultyStore]:
    with faulty_store.started(seed=0, share=SHARE) as store, pytest.MonkeyPatch.context() as monkeypatch:
        store.enter(monkeypatch)
        storage.fsspec.filesystem("s3").clear_instance_cache()
        yield store
        storage.fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def on_store(job: Any, faulty: Any) -> tuple[str, subprocess.CompletedProcess[str]]:
    """The output of one run whose corpora, tables, checkpoints and report are behind the proxy."""
    output = f"{faulty.create_bucket('runs')}/smoke"
    done = job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    return output, done


def test_a_run_on_a_faulty_store_ends_as_one_on_a_disk(finished: Any, on_store: Any, faulty: Any):
    (expected, _), (output, done) = finished, on_store
    assert {kind for kind in KINDS if faulty.done[kind] >= 5} == KINDS, faulty.done
    assert f"report: {output}/report/index.html" in done.stdout
    summaries = [storage.read_json(storage.join(folder, "summary.json")) for folder in (output, str(expected))]
    for key in ("counts", "evaluation", "differences"):
        assert summaries[0][key] == summaries[1][key], key
    for stage in ("embed/captions", "embed/wild", "match", "select/DU_0.3"):
        found, wanted = (only_folder(storage.join(root, stage)) for root in (output, str(expected)))
        assert read_shards(found), stage
        tables, others = read_shards(found), read_shards(wanted)
        if stage.startswith("select"):  # where a clip lies: beside the table on a disk, inside it on a store
            tables, others = (
                {name: table.drop_columns("audio") for name, table in each.items()} for each in (tables, others)
            )
        assert tables == others, stage
    rejects = [
        pa.concat_tables(read_shards(only_folder(f"{root}/embed/wild"), "rejects").values()).select(
            ["clip_id", "outcome"]
        )
        for root in (output, str(expected))
    ]
    assert rejects[0] == rejects[1]
    for model in ("teacher", "student/student"):
        found, wanted = (only_folder(storage.join(root, model)) for root in (output, str(expected)))
        fingerprints = [storage.read_json(f"{folder}/model.json")["fingerprint"] for folder in (found, wanted)]
        assert fingerprints[0] == fingerprints[1], model
        assert storage.exists(f"{found}/model.json")
    assert storage.size_bytes(f"{output}/report/index.html") > 10_000
    assert all(stage["attempts"] == 1 for stage in summaries[0]["stages"].values())


def test_nothing_of_the_run_is_left_on_this_machine_and_no_secret_is_written(on_store: Any):
    output, done = on_store
    assert not Path("s3:").exists()
    assert "made-up" not in done.stdout + done.stderr
    for name in ("recipe.yaml", "summary.json", "run.json"):
        assert b"made-up" not in storage.read_bytes(storage.join(output, name))


def test_status_reads_the_files_of_a_run_on_the_store(job: Any, on_store: Any):
    output, _ = on_store
    command = [sys.executable, "-m", "raysem.cli", "status", output]
    done = subprocess.run(command, capture_output=True, text=True, env=job.environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"finished  embed/wild .* 20 of 20 shards, 80 rows", done.stdout)
    assert "driver at work: none" in done.stdout
    asked = subprocess.run([*command, "--json"], capture_output=True, text=True, env=job.environment, timeout=300)
    assert {stage["state"] for stage in json.loads(asked.stdout)["stages"]} == {"finished"}


def test_the_same_command_again_skips_everything(job: Any, on_store: Any):
    output, _ = on_store
    sessions = job.ray_sessions()
    done = job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "0 stages run, " in done.stdout
    assert job.ray_sessions() == sessions


def test_a_bucket_that_is_not_there_is_one_line_before_ray_starts(job: Any, faulty: Any):
    sessions = job.ray_sessions()
    for more in ((), ("--dry-run",)):
        done = job.run("s3://no-such-bucket/run", *more)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("curate_and_train: ")]
        assert line == "curate_and_train: s3://no-such-bucket/run: there is no bucket 'no-such-bucket'"
        assert "Traceback" not in done.stderr
    assert job.ray_sessions() == sessions


def test_a_refused_key_is_one_line_before_ray_starts(job: Any, faulty: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faulty, "refused", ("/closed",))
    sessions = job.ray_sessions()
    done = job.run("s3://closed/run")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("curate_and_train: ")]
    assert line.startswith("curate_and_train: s3://closed/run: cannot be reached or used (PermissionError: ")
    assert job.ray_sessions() == sessions
