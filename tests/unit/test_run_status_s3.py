"""`raysem status s3://...` on a server of our own: moto, on the loopback, with made-up credentials."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import aiobotocore.client
import pyarrow as pa
import pytest

from raysem import storage
from raysem.errors import StorageError, UserError
from raysem.ledger import DoneRecord, Ledger, total
from raysem.locks import run_lock
from raysem.run_status import describe, read_status
from raysem.stages import Stage, run_stages, write_plan


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that were asked of the store."""
    asked: list[str] = []
    call = aiobotocore.client.AioBaseClient._make_api_call

    async def counted(self: Any, operation: str, arguments: Any) -> Any:
        asked.append(operation)
        return await call(self, operation, arguments)

    monkeypatch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", counted)
    return asked


def half_a_run(output: str, num_shards: int) -> None:
    """`read` is finished, `embed` was killed with all but one of its shards done, `report` waits."""

    def embed(folder: str) -> dict[str, Any]:
        ledger = Ledger(folder)
        ledger.plan(num_shards)

        def finish(name: str) -> None:
            record = {"shard": name, "rows": 10, "outcomes": {"kept": 9, "too_short": 1}}
            storage.write_json(storage.join(folder, "done", f"{name}.json"), record)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(finish, [f"{number:05d}" for number in range(num_shards - 1)]))
        raise KeyboardInterrupt

    def read(folder: str) -> dict[str, Any]:
        record = Ledger(folder).finish(DoneRecord("x", 5, {"kept": 5}), {"shards": pa.table({"a": [1]})})
        return total([record])

    stages = [Stage("read", read), Stage("embed", embed), Stage("report", lambda folder: {})]
    write_plan(stages, output, {})
    with suppress(KeyboardInterrupt):
        run_stages(stages, output)


def test_a_run_in_a_bucket_shows_its_shards_rows_and_outcomes(bucket: str):
    half_a_run(f"{bucket}/run", 4)
    with run_lock(f"{bucket}/run"):
        status = read_status(f"{bucket}/run")
    read, embed, report = status["stages"]
    assert (read["state"], read["shards"]["rows"]) == ("finished", 5)
    assert embed["state"] == "running"
    shards = embed["shards"]
    assert (shards["done"], shards["total"], shards["running"], shards["rows"]) == (3, 4, 1, 30)
    assert (shards["outcomes"], shards["rejected"]) == ({"kept": 27, "too_short": 3}, 3)
    assert shards["rows_per_second"] > 0
    assert shards["seconds_left"] == pytest.approx(10 / shards["rows_per_second"])
    assert report["state"] == "waiting"
    assert "running   embed  3 of 4 shards, 1 running, 30 rows (kept 27, too_short 3), " in describe(status)


def test_more_shards_ask_no_more_of_the_store_than_one_listing_and_a_bounded_number_of_records(
    bucket: str, requests: list[str]
):
    asked = {}
    for num_shards in (6, 101):
        half_a_run(f"{bucket}/run{num_shards}", num_shards)
        requests.clear()
        shards = read_status(f"{bucket}/run{num_shards}", limit=5)["stages"][1]["shards"]
        assert shards["done"] == num_shards - 1
        assert shards["rows"] == 10 * (num_shards - 1)
        asked[num_shards] = len(requests), requests.count("ListObjectsV2")
    assert asked[101] == asked[6]
    assert read_status(f"{bucket}/run101")["stages"][1]["shards"]["records_read"] == 100


def test_training_in_a_bucket_shows_its_steps_from_the_end_of_the_metrics(bucket: str):
    def train(folder: str) -> dict[str, Any]:
        storage.write_text(storage.join(folder, "checkpoints", "step_00000050", "state.json"), "{}")
        line = '{"step": 60, "kind": "train", "clips_per_second": 20.0}\n'
        storage.write_text(storage.join(folder, "metrics.jsonl"), "{}\n" * 50_000 + line)
        raise KeyboardInterrupt

    stage = Stage("teacher", train, settings={"training": {"steps": 100, "batch_size": 10}})
    write_plan([stage], f"{bucket}/run", {})
    with suppress(KeyboardInterrupt):
        run_stages([stage], f"{bucket}/run")
    with run_lock(f"{bucket}/run"):
        (found,) = read_status(f"{bucket}/run")["stages"]
    assert found["training"] == {
        "step": 60,
        "steps": 100,
        "checkpoint": 50,
        "clips_per_second": pytest.approx(20),
        "seconds_left": pytest.approx(20),
    }


def test_what_is_no_run_and_what_is_no_bucket_is_said(bucket: str):
    with pytest.raises(UserError, match=r"no run\.json there; not the output of a run"):
        read_status(f"{bucket}/nothing")
    with pytest.raises(StorageError, match=r"raysem-not-there.*there is no bucket 'raysem-not-there'"):
        read_status("s3://raysem-not-there/run")


def test_a_wrong_bucket_is_one_line_of_the_command(bucket: str):
    answer = subprocess.run(
        [sys.executable, "-m", "raysem.cli", "status", "s3://raysem-not-there/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("raysem: s3://raysem-not-there/run: ")
    assert len(answer.stderr.splitlines()) == 1
