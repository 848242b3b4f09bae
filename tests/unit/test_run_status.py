from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raysem import storage
from raysem.errors import UserError
from raysem.ledger import DoneRecord, Ledger
from raysem.run_status import describe, read_status
from raysem.stages import PLAN, Stage, run_lock, run_stages, write_plan


def embed(folder: str) -> dict[str, Any]:
    ledger = Ledger(folder)
    ledger.plan(2)
    ledger.finish(DoneRecord("a", 10, {"kept": 9, "silent": 1}), {"shards": pa.table({"x": [1]})})
    return {}


def killed(folder: str) -> dict[str, Any]:
    embed(folder)
    raise KeyboardInterrupt


def train(folder: str) -> dict[str, Any]:
    for step in (9, 100):
        storage.write_text(storage.join(folder, "checkpoints", f"step_{step:08d}", "state.json"), "{}")
    storage.write_text(storage.join(folder, "checkpoints", "notes", "x"), "")
    raise KeyboardInterrupt


def run(output: str, stages: list[Stage]) -> dict[str, dict[str, Any]]:
    write_plan(stages, output, {})
    with suppress(KeyboardInterrupt):
        run_stages(stages, output)
    return {stage["name"]: stage for stage in read_status(output)["stages"]}


def test_a_run_that_was_killed_shows_what_its_files_say(tmp_path: Path):
    output = str(tmp_path)
    stages = [Stage("read", lambda folder: {}), Stage("embed", killed), Stage("report", lambda folder: {})]
    found = run(output, stages)
    assert [stage["state"] for stage in found.values()] == ["finished", "started", "waiting"]
    shards = found["embed"]["shards"]
    assert (shards["done"], shards["total"], shards["rows"]) == (1, 2, 10)
    assert shards["outcomes"] == {"kept": 9, "silent": 1}
    assert shards["rows_per_second"] > 0
    lines = describe(read_status(output)).splitlines()
    assert lines[0] == f"{output}, driver at work: none"
    assert lines[1].startswith("finished  read  0.")
    assert lines[2].startswith("started   embed  1 of 2 shards, 10 rows (kept 9, silent 1), ")
    assert lines[3] == "waiting   report"


def test_a_training_stage_shows_its_last_checkpoint(tmp_path: Path):
    found = run(str(tmp_path), [Stage("teacher", train)])
    assert found["teacher"]["training"] == {"step": 100}
    run(str(tmp_path), [Stage("teacher", train)])
    assert "teacher  step 100  attempt 2" in describe(read_status(str(tmp_path)))


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
    assert [stage["state"] for stage in found] == ["started", "waiting"]
    assert found[0]["shards"]["total"] is None
