from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raysem import storage
from raysem.errors import StageError, UserError
from raysem.ledger import DoneRecord, Ledger
from raysem.stages import DONE, PLAN, Stage, done_record, in_order, run_stages, stages_until, write_plan


class Calls:
    """Stages that note their call, and a chain a <- b <- c of them."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def of(self, name: str, settings: Any = None, inputs: tuple[Stage, ...] = (), fail: bool = False) -> Stage:
        def run(folder: str) -> dict[str, Any]:
            self.made.append(name)
            storage.write_text(storage.join(folder, "out.txt"), name)
            if fail:
                raise StageError(f"{name} failed")
            return {"name": name}

        return Stage(name, run, settings, inputs)

    def chain(self, settings: Any = None, fail: str = "") -> list[Stage]:
        a = self.of("a")
        b = self.of("b", settings, (a,), fail == "b")
        return [a, b, self.of("c", None, (b,))]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def nothing(folder: str) -> dict[str, Any]:
    return {}


def test_a_digest_covers_name_settings_revision_and_inputs_but_not_the_function():
    base = Stage("a", nothing, {"x": 1})
    assert Stage("a", lambda folder: {}, {"x": 1}).digest == base.digest
    assert Stage("a", nothing, {"x": 2}).digest != base.digest
    assert Stage("b", nothing, {"x": 1}).digest != base.digest
    assert Stage("a", nothing, {"x": 1}, revision=2).digest != base.digest
    assert Stage("a", nothing, {"x": 1}, inputs=[base]).digest != base.digest


def test_verifying_runs_again_a_finished_stage_with_a_damaged_shard_and_no_other(tmp_path: Path):
    made: list[tuple[str, list[str]]] = []

    def sharded(name: str) -> Stage:
        def run(folder: str) -> dict[str, Any]:
            ledger = Ledger(folder)
            ledger.plan(3)
            pending = ledger.pending(["one", "two", "three"])
            made.append((name, pending))
            for shard in pending:
                ledger.finish(DoneRecord(shard, 1, {"kept": 1}), {"shards": pa.table({"a": [shard]})})
            return {}

        return Stage(name, run)

    stages, output = [sharded("a"), sharded("b"), Stage("c", nothing)], str(tmp_path)
    run_stages(stages, output)
    made.clear()
    run_stages(stages, output, verify=True)
    assert made == []
    file = Path(stages[1].folder(output)) / "shards" / "two.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (Path(stages[1].folder(output)) / "done" / "three.json").unlink()
    assert all(result.skipped for result in run_stages(stages, output).values())
    results = run_stages(stages, output, verify=True)
    assert made == [("b", ["two", "three"])]
    assert [name for name, result in results.items() if not result.skipped] == ["b"]
    assert file.read_bytes() != content


def test_a_change_reaches_the_stages_below_it_only(calls: Calls):
    before, after = calls.chain({"x": 1}), calls.chain({"x": 2})
    assert before[0].digest == after[0].digest
    assert before[1].digest != after[1].digest
    assert before[2].digest != after[2].digest


@pytest.mark.parametrize("root", ["local", "memory"])
def test_finished_stages_are_skipped_by_the_next_run(root: str, calls: Calls, tmp_path: Path):
    output = str(tmp_path) if root == "local" else f"memory://stages/{tmp_path.name}"
    first = run_stages(calls.chain(), output)
    assert calls.made == ["a", "b", "c"]
    assert [result.skipped for result in first.values()] == [False] * 3
    second = run_stages(calls.chain(), output)
    assert calls.made == ["a", "b", "c"]
    assert [result.skipped for result in second.values()] == [True] * 3
    assert [result.summary for result in second.values()] == [{"name": name} for name in "abc"]
    assert second["b"].seconds == first["b"].seconds


def test_a_changed_setting_runs_its_stage_and_those_below_and_keeps_the_old_folders(calls: Calls, tmp_path: Path):
    run_stages(calls.chain({"x": 1}), str(tmp_path))
    run_stages(calls.chain({"x": 2}), str(tmp_path))
    assert calls.made == ["a", "b", "c", "b", "c"]
    run_stages(calls.chain({"x": 1}), str(tmp_path))
    assert len(calls.made) == 5


def test_a_failed_stage_keeps_what_it_wrote_and_is_the_first_to_run_again(calls: Calls, tmp_path: Path):
    with pytest.raises(StageError, match="b failed"):
        run_stages(calls.chain(fail="b"), str(tmp_path))
    failed = calls.chain()[1]
    assert storage.exists(storage.join(failed.folder(str(tmp_path)), "out.txt"))
    assert done_record(failed, str(tmp_path)) is None
    run_stages(calls.chain(), str(tmp_path))
    assert calls.made == ["a", "b", "b", "c"]
    record = done_record(failed, str(tmp_path))
    assert record is not None
    assert record["attempts"] == 2
    assert record["inputs"] == {"a": calls.chain()[0].digest}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\xff"])
def test_a_damaged_record_of_a_stage_makes_it_run_again(content: str, calls: Calls, tmp_path: Path):
    run_stages(calls.chain(), str(tmp_path))
    location = storage.join(calls.chain()[1].folder(str(tmp_path)), DONE)
    storage.write_bytes(location, content.encode("latin-1"))
    run_stages(calls.chain(), str(tmp_path))
    assert calls.made == ["a", "b", "c", "b"]


def test_fresh_runs_again_what_was_asked_for_and_nothing_else(calls: Calls, tmp_path: Path):
    run_stages(calls.chain(), str(tmp_path))
    results = run_stages(calls.chain(), str(tmp_path), until="b", fresh=True)
    assert calls.made == ["a", "b", "c", "a", "b"]
    assert list(results) == ["a", "b"]
    assert done_record(calls.chain()[2], str(tmp_path)) is not None


def test_a_cluster_is_joined_once_and_only_for_a_stage_that_needs_it(tmp_path: Path):
    made: list[str] = []

    def of(name: str, *inputs: Stage, needs_cluster: bool) -> Stage:
        def run(folder: str) -> dict[str, Any]:
            made.append(name)
            return {}

        return Stage(name, run, inputs=inputs, needs_cluster=needs_cluster)

    table = of("table", needs_cluster=False)
    first, second = of("first", table, needs_cluster=True), of("second", table, needs_cluster=True)
    report = of("report", first, second, needs_cluster=False)
    listed, output = [table, first, second, report], str(tmp_path)
    run_stages(listed, output, until="table", connect=lambda: made.append("connect"))
    assert made == ["table"]
    run_stages(listed, output, connect=lambda: made.append("connect"))
    assert made == ["table", "connect", "first", "second", "report"]
    storage.delete(report.folder(output))
    run_stages(listed, output, connect=lambda: made.append("connect"))
    assert made[5:] == ["report"]


def test_where_a_stage_runs_is_no_part_of_its_digest():
    assert Stage("a", nothing, needs_cluster=False).digest == Stage("a", nothing).digest


def test_until_names_a_stage_or_a_group_of_them():
    listed = [Stage(name, nothing) for name in ("a", "select/x", "select/y", "selected", "b")]
    assert [stage.name for stage in stages_until(listed, None)] == ["a", "select/x", "select/y", "selected", "b"]
    assert [stage.name for stage in stages_until(listed, "select")] == ["a", "select/x", "select/y"]
    assert [stage.name for stage in stages_until(listed, "select/x")] == ["a", "select/x"]
    with pytest.raises(UserError, match="--until selec: no such stage; there are a, select/x, select/y, selected, b"):
        stages_until(listed, "selec")


def test_stages_are_put_after_what_they_read_and_what_is_only_read_comes_too(calls: Calls):
    a, b, c = calls.chain()
    assert in_order([c]) == [a, b, c]
    assert in_order([c, a, b, c]) == [a, b, c]
    other = calls.of("d")
    assert in_order([other, c]) == [other, a, b, c]


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two stages are named a"):
        in_order([Stage("a", nothing, 1), Stage("a", nothing, 2)])


def test_a_plan_tells_what_has_changed_since_the_last_run(calls: Calls, tmp_path: Path):
    output = str(tmp_path)
    assert write_plan(calls.chain(), output, {"seed": 0, "a": {"b": 1}}) == []
    assert write_plan(calls.chain(), output, {"seed": 1, "a": {"b": 1}}) == ["seed: 0 -> 1"]
    assert [stage["name"] for stage in storage.read_json(storage.join(output, PLAN))["stages"]] == ["a", "b", "c"]
    for damaged in ("", "[]", "{}"):
        storage.write_text(storage.join(output, PLAN), damaged)
        assert write_plan(calls.chain(), output, {"seed": 1}) == []
