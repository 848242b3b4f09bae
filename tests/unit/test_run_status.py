from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raysem import storage
from raysem.errors import UserError
from raysem.ledger import DoneRecord, Ledger, total
from raysem.locks import LOCK, run_lock
from raysem.run_status import describe, read_status
from raysem.stages import PLAN, Stage, run_stages, write_plan


def embed(folder: str) -> dict[str, Any]:
    ledger = Ledger(folder)
    ledger.plan(2)
    records = [ledger.finish(DoneRecord("a", 10, {"kept": 9, "silent": 1}), {"shards": pa.table({"x": [1]})})]
    return total(records)


def killed(folder: str) -> dict[str, Any]:
    embed(folder)
    raise KeyboardInterrupt


def train(folder: str) -> dict[str, Any]:
    for step in (9, 100):
        storage.write_text(storage.join(folder, "checkpoints", f"step_{step:08d}", "state.json"), "{}")
    for name in ("notes", "best_00000110"):
        storage.write_text(storage.join(folder, "checkpoints", name, "x"), "")
    raise KeyboardInterrupt


def log_steps(folder: str, *steps: tuple[int, float]) -> None:
    """As a training run does, each with its clips a second; the last line was cut short by a kill."""
    lines = [json.dumps({"step": 0, "kind": "held_out", "loss": 3.0})]
    lines += [json.dumps({"step": step, "kind": "train", "clips_per_second": rate}) for step, rate in steps]
    storage.write_text(storage.join(folder, "metrics.jsonl"), "\n".join([*lines, '{"step": 99']))


TRAINING = {"training": {"steps": 400, "batch_size": 32}}


def run(output: str, stages: list[Stage]) -> dict[str, dict[str, Any]]:
    write_plan(stages, output, {})
    with suppress(KeyboardInterrupt):
        run_stages(stages, output)
    return {stage["name"]: stage for stage in read_status(output)["stages"]}


def test_a_run_that_was_killed_shows_what_its_files_say(tmp_path: Path):
    output = str(tmp_path)
    stages = [Stage("read", lambda folder: {}), Stage("embed", killed), Stage("report", lambda folder: {})]
    found = run(output, stages)
    assert [stage["state"] for stage in found.values()] == ["finished", "stopped", "waiting"]
    shards = found["embed"]["shards"]
    assert (shards["done"], shards["total"], shards["rows"]) == (1, 2, 10)
    assert shards["outcomes"] == {"kept": 9, "silent": 1}
    assert (shards["running"], shards["waiting"], shards["failed"], shards["rejected"]) == (0, 1, 0, 1)
    assert shards["rows_per_second"] > 0
    assert shards["seconds_left"] is None  # nobody is at work
    lines = describe(read_status(output)).splitlines()
    assert lines[0] == f"{output}, driver at work: none"
    assert lines[1].startswith("finished  read  0.")
    assert lines[2].startswith("stopped   embed  1 of 2 shards, 1 waiting, 10 rows (kept 9, silent 1), ")
    assert lines[3] == "waiting   report"


def test_a_training_stage_shows_its_last_checkpoint(tmp_path: Path):
    found = run(str(tmp_path), [Stage("teacher", train, settings=TRAINING)])
    training = found["teacher"]["training"]
    assert (training["step"], training["checkpoint"], training["steps"]) == (100, 100, 400)
    assert training["clips_per_second"] is None
    run(str(tmp_path), [Stage("teacher", train, settings=TRAINING)])
    assert "teacher  step 100 of 400 (checkpoint 100)  attempt 2" in describe(read_status(str(tmp_path)))


def test_the_time_left_of_training_follows_from_the_clips_a_second_that_it_logged(tmp_path: Path):
    stage = Stage("teacher", train, settings=TRAINING)
    run(str(tmp_path), [stage])
    log_steps(stage.folder(str(tmp_path)), (110, 40.0), (120, 10.0))
    with run_lock(str(tmp_path)):
        (found,) = read_status(str(tmp_path))["stages"]
        text = describe(read_status(str(tmp_path)))
    assert found["state"] == "running"
    assert found["training"]["step"] == 120
    assert found["training"]["clips_per_second"] == pytest.approx(16)  # as many steps at 40/s as at 10/s
    assert found["training"]["seconds_left"] == pytest.approx(280 * 32 / 16)
    assert text.endswith("running   teacher  step 120 of 400 (checkpoint 100), 16.0 clips/s, 9 min 20 s left")


def test_only_the_end_of_a_long_metrics_file_is_read(tmp_path: Path):
    stage = Stage("teacher", train, settings=TRAINING)
    run(str(tmp_path), [stage])
    log_steps(stage.folder(str(tmp_path)), *((step, 1e-9 if step < 3000 else 8.0) for step in range(1, 4001)))
    (found,) = read_status(str(tmp_path))["stages"]
    assert (found["training"]["step"], found["training"]["clips_per_second"]) == (4000, pytest.approx(8))


def test_shards_are_running_while_a_driver_is_at_work_and_the_time_left_follows_from_this_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Five of eight shards: two by an earlier attempt, three of 10 rows within the 60 s of this one."""
    output, stage = str(tmp_path), Stage("embed", killed)
    run(output, [stage])
    folder, now = stage.folder(output), 1_000_000.0
    ledger = Ledger(folder)
    ledger.plan(8)
    for number in range(5):
        ledger.finish(DoneRecord("abcde"[number], 10, {"kept": 10}), {"shards": pa.table({"x": [1]})})
        os.utime(storage.join(folder, "done", f"{'abcde'[number]}.json"), (now - 100 + 20 * number,) * 2)
    storage.write_json(storage.join(folder, "attempts", "0002.json"), {"began": now - 60})
    monkeypatch.setattr("raysem.run_status.time.time", lambda: now)
    monkeypatch.setattr("raysem.run_status.read_lock", lambda at: {"host": "h", "pid": 1} if at == output else None)
    status = read_status(output)
    shards = status["stages"][0]["shards"]
    assert (shards["done"], shards["running"], shards["waiting"]) == (5, 3, 0)
    assert shards["rows_per_second"] == pytest.approx(3 * 10 / 60)
    assert shards["seconds_left"] == pytest.approx(3 / (3 / 60))
    assert describe(status).endswith(
        "running   embed  5 of 8 shards, 3 running, 50 rows (kept 50), 0.5/s, 1 min 0 s left  attempt 2"
    )
    assert json.loads(json.dumps(status)) == status


def test_of_many_shards_evenly_spaced_records_are_read_and_their_counts_scaled_up(tmp_path: Path):
    stage = Stage("embed", killed)
    run(str(tmp_path), [stage])
    ledger = Ledger(stage.folder(str(tmp_path)))
    for number in range(29):
        ledger.finish(DoneRecord(f"s{number:03d}", 100, {"kept": 90, "silent": 10}), {})

    def shards(limit: int) -> dict[str, Any]:
        return read_status(str(tmp_path), limit=limit)["stages"][0]["shards"]

    exact, some = shards(30), shards(10)
    assert (exact["records_read"], exact["rows"], exact["outcomes"]) == (30, 2910, {"kept": 2619, "silent": 291})
    assert some["records_read"] == 10
    assert some["done"] == 30
    assert some["rows"] == 3 * (10 + 9 * 100)  # the first of the ten has 10 rows
    assert "about 2730 rows" in describe(read_status(str(tmp_path), limit=10))


def test_a_record_whose_numbers_were_altered_counts_as_failed(tmp_path: Path):
    stage = Stage("embed", killed)
    run(str(tmp_path), [stage])
    location = storage.join(stage.folder(str(tmp_path)), "done", "a.json")
    storage.write_json(location, storage.read_json(location) | {"rows": 11})
    shards = read_status(str(tmp_path))["stages"][0]["shards"]
    assert (shards["done"], shards["failed"], shards["waiting"], shards["rows"]) == (0, 1, 2, 0)
    assert "0 of 2 shards, 2 waiting, 1 failed, 0 rows" in describe(read_status(str(tmp_path)))


def test_a_stage_that_another_process_of_a_sweep_holds_is_running(tmp_path: Path):
    stage = Stage("embed", killed)
    run(str(tmp_path), [stage])
    with run_lock(stage.folder(str(tmp_path))):
        (found,) = read_status(str(tmp_path))["stages"]
    assert found["state"] == "running"


def test_a_driver_that_was_killed_is_named_with_the_time_since_its_last_sign(tmp_path: Path):
    run(str(tmp_path), [])
    held = {"host": "elsewhere", "pid": 7, "began": 0.0, "beat": time.time() - 3600, "token": "x"}
    storage.write_json(str(tmp_path / LOCK), held)
    status = read_status(str(tmp_path))
    assert status["driver"] is None
    assert status["last_driver"]["silent_seconds"] >= 3600
    assert "driver at work: none; process 7 on elsewhere ended without a word 1 h 0 min ago" in describe(status)


def test_a_finished_stage_gives_its_rate_over_its_own_seconds(tmp_path: Path):
    found = run(str(tmp_path), [Stage("embed", embed)])["embed"]
    assert found["state"] == "finished"
    if found["seconds"]:
        assert found["shards"]["rows_per_second"] == pytest.approx(10 / found["seconds"])


def test_the_driver_at_work_is_named(tmp_path: Path):
    run(str(tmp_path), [])
    with run_lock(str(tmp_path)):
        assert "driver at work: process " in describe(read_status(str(tmp_path)))


@pytest.mark.parametrize("name", ["nothing", "file.txt"])
def test_what_is_no_run_is_refused(name: str, tmp_path: Path):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match="not the output of a run"):
        read_status(str(tmp_path / name))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stages": [1]}'])
def test_a_damaged_plan_is_refused_on_one_line(content: str, tmp_path: Path):
    (tmp_path / PLAN).write_text(content)
    with pytest.raises(UserError, match=r"run\.json: not readable"):
        read_status(str(tmp_path))


def test_damaged_files_of_a_stage_do_not_stop_the_others_from_being_shown(tmp_path: Path):
    output = str(tmp_path)
    stages = [Stage("embed", killed), Stage("report", lambda folder: {})]
    run(output, stages)
    folder = stages[0].folder(output)
    for name in ("plan.json", "_done.json", "attempts/0001.json", "done/a.json"):
        storage.write_text(storage.join(folder, name), "{")
    found = read_status(output)["stages"]
    assert [stage["state"] for stage in found] == ["stopped", "waiting"]
    assert found[0]["shards"]["total"] is None
    assert (found[0]["shards"]["done"], found[0]["shards"]["failed"]) == (0, 1)
