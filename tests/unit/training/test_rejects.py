"""Clips that cannot be used leave a row each, and a store that fails stops every rank with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import StopAt, TinyNetwork, run_tiny, tiny_settings, write_data, write_pairs
from two_ranks import on_two_ranks

from raysem import storage
from raysem.errors import ConfigError, StorageError
from raysem.remote import filesystem
from raysem.tables import REJECTS
from raysem.training.context import LocalContext, TrainingError, TrainingStorageError
from raysem.training.objective import ObjectiveSettings
from raysem.training.rejects import TrainingRejects, UnusableClip

UNREACHABLE = "nosuchscheme://bucket/a.wav"
SETTINGS = tiny_settings(steps=15, max_unusable_share=0.4)


def rejects_of(folder: Path) -> list[dict[str, Any]]:
    table = storage.read_table(str(folder / "rejects.parquet"))
    assert table.schema == REJECTS
    return table.to_pylist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 40 clips two are broken and one is gone, of 16 held-out ones one is broken."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    write_pairs(folder / "main.parquet", 40, prefix="main", broken=(3, 17), paths={8: str(folder / "gone.wav")})
    write_pairs(folder / "held_out.parquet", 16, prefix="held", broken=(5,))
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder and the result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_tiny(folder, data=data, settings=SETTINGS)[1]


def test_each_unusable_clip_has_one_row_and_every_draw_of_it_is_counted(data: Path, whole: tuple[Path, Any]):
    folder, result = whole
    rows = rejects_of(folder)
    assert [(row["clip_id"], row["stage"], row["outcome"]) for row in rows] == [
        ("main-0003", "train", "undecodable"),
        ("main-0008", "train", "missing"),
        ("main-0017", "train", "undecodable"),
        ("held-0005", "held_out", "undecodable"),
    ]
    assert str(data / "gone.wav") in rows[1]["reason"]
    assert result.unusable_outcomes.keys() == {"missing", "undecodable"}
    assert sum(result.unusable_outcomes.values()) == result.clips_unusable > 3  # 15 steps of 8 are three epochs
    assert json.loads((folder / "result.json").read_text())["unusable_outcomes"] == result.unusable_outcomes


@pytest.mark.parametrize("stop_at_step", [2, 5, 9, 14])
def test_a_resumed_run_neither_loses_nor_doubles_a_row(
    data: Path, whole: tuple[Path, Any], tmp_path: Path, stop_at_step: int
):
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, data=data, settings=SETTINGS, wrap_objective=lambda o: StopAt(o, stop_at_step))
    result = run_tiny(tmp_path, data=data, settings=SETTINGS)[1]
    assert rejects_of(tmp_path) == rejects_of(whole[0])
    assert result.unusable_outcomes == whole[1].unusable_outcomes
    assert (result.clips_loaded, result.clips_unusable) == (whole[1].clips_loaded, whole[1].clips_unusable)


def run_on_this_rank(rank: int, data: str, output: str) -> Any:
    objective = ObjectiveSettings(replay_probability=0.2)
    try:
        return run_tiny(
            output, data=Path(data), settings=SETTINGS, objective=objective, context=LocalContext.current("cpu"),
            model=TinyNetwork(dropout=0.0),
        )[1]  # fmt: skip
    except (TrainingError, ConfigError) as error:
        return error


def test_two_ranks_leave_the_rows_and_counts_of_one_process(data: Path, tmp_path: Path):
    alone = run_on_this_rank(0, str(data), str(tmp_path / "alone"))
    for found in on_two_ranks(run_on_this_rank, tmp_path / "ranks", str(data), str(tmp_path / "two")):
        assert found.unusable_outcomes == alone.unusable_outcomes
        assert found.clips_loaded == alone.clips_loaded
    assert rejects_of(tmp_path / "two") == rejects_of(tmp_path / "alone")


def test_a_run_without_unusable_clips_leaves_an_empty_table(tmp_path: Path):
    data = write_data(tmp_path / "data")
    result = run_tiny(tmp_path / "out", data=data, settings=tiny_settings(steps=2))[1]
    assert rejects_of(tmp_path / "out") == []
    assert (result.unusable_outcomes, result.clips_unusable) == ({}, 0)


def test_a_run_that_stops_for_too_many_unusable_clips_leaves_their_rows(tmp_path: Path):
    broken = tuple(range(0, 40, 3))
    data = write_data(tmp_path / "data", broken=broken)
    with pytest.raises(TrainingError, match=r"more than max_unusable_share 0\.05 allows"):
        run_tiny(tmp_path / "out", data=data, settings=tiny_settings(steps=20))
    rows = rejects_of(tmp_path / "out")
    assert rows
    assert {row["clip_id"] for row in rows} <= {f"main-{index:04d}" for index in broken}


def test_a_row_without_a_caption_is_missing_it(tmp_path: Path):
    data = write_data(tmp_path / "data", row_group_rows=10)
    table = storage.read_table(str(data / "main.parquet"))
    captions = table.column("captions").to_pylist()
    captions[12] = []
    table = table.set_column(table.column_names.index("captions"), table.schema.field("captions"), [captions])
    storage.write_table(str(data / "main.parquet"), table, row_group_rows=10)
    run_tiny(tmp_path / "out", data=data, settings=SETTINGS, memory_mib=0)
    assert rejects_of(tmp_path / "out") == [
        {"clip_id": "main-0012", "stage": "train", "outcome": "missing", "reason": "no caption"}
    ]


def test_what_is_shared_is_the_same_on_every_rank(tmp_path: Path):
    for rejects in on_two_ranks(shared, tmp_path, str(tmp_path / "out")):
        assert rejects == {"loaded": 20, "unusable": {"empty": 1, "silent": 2}}
    assert [row["clip_id"] for row in rejects_of(tmp_path / "out")] == ["a", "b"]


def shared(rank: int, output: str) -> dict[str, Any]:
    rejects = TrainingRejects(output, LocalContext.current("cpu"), max_share=1.0)
    rejects.add(5, [UnusableClip("a", "silent", "peak 0")])
    rejects.add(5, [UnusableClip("b", "empty", "0 bytes")] if rank else [])
    rejects.share(1)
    rejects.share(2)  # nothing new: nothing counts twice
    rejects.write()
    return rejects.state()


# A store that fails


@pytest.mark.parametrize("table", ["main", "held_out"])
def test_a_store_that_fails_stops_the_run_and_rejects_nothing(tmp_path: Path, table: str):
    data = write_data(tmp_path / "data")
    write_pairs(data / f"{table}.parquet", 40, paths={11: UNREACHABLE})
    with pytest.raises(TrainingStorageError, match=r"^nosuchscheme://bucket/a\.wav: no filesystem for this") as caught:
        run_tiny(tmp_path / "out", data=data, settings=tiny_settings(held_out_pairs=40, checkpoint_every_steps=100))
    assert isinstance(caught.value, StorageError)
    assert not (tmp_path / "out" / "result.json").exists()
    assert not (tmp_path / "out" / "rejects.parquet").exists()


@pytest.mark.parametrize("table", ["main", "held_out"])
def test_a_store_that_fails_on_one_rank_stops_both_with_its_line(tmp_path: Path, table: str):
    data = write_data(tmp_path / "data")
    write_pairs(data / f"{table}.parquet", 16, prefix=table, paths={5: UNREACHABLE})
    for error in on_two_ranks(run_on_this_rank, tmp_path / "ranks", str(data), str(tmp_path / "out")):
        assert type(error) is TrainingStorageError
        assert str(error).startswith(UNREACHABLE)


def test_a_resumed_run_is_not_told_from_a_store_that_fails_that_there_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = write_data(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        run_tiny("memory://rejects/one", data=data, wrap_objective=lambda objective: StopAt(objective, 6))
    fs, _ = filesystem("memory://rejects")
    with monkeypatch.context() as patched:
        patched.setattr(type(fs), "cat_file", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("reset")))
        with pytest.raises(StorageError, match="ConnectionError: reset"):
            run_tiny("memory://rejects/one", data=data)
    resumed, whole = run_tiny("memory://rejects/one", data=data)[0], run_tiny(tmp_path / "whole", data=data)[0]
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())
