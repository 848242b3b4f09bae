"""Runs of a tagger that are killed and gone on with, and the clips that they draw."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tag_runs import Recording, assert_same_run, killed, measured, recording, trained, weights_of
from tiny_tagging import SPA, ast_settings, cnn14_settings, tiny_spec, write_data, write_tagged

from raysem import storage
from raysem.audio.augment import AugmentSettings
from raysem.audio.spec_mask import SpecMaskSettings
from raysem.training import tag_spec
from raysem.training.context import process_settings
from raysem.training.schedule import ScheduleSettings
from raysem.training.tag_examples import MixupSettings
from raysem.training.tag_measure import TagMeasure
from raysem.training.tag_objective import TagObjectiveSettings
from raysem.training.tag_spec import TaggingSpec

AUGMENTATION = AugmentSettings(gain_db=(-6.0, 6.0), time_shift_seconds=0.05)
MASKS = SpecMaskSettings(num_masks_frequency=1, max_bins=8, num_masks_time=1, max_frames=10)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, torch.device("cpu")):  # several are slower for so few channels
        yield


@pytest.fixture
def recorded() -> Iterator[list[Recording]]:
    """The objectives of the runs that follow."""
    with recording() as found:
        yield found


CASES: dict[str, dict[str, Any]] = {
    "AST with everything": {
        "model": ast_settings(spec_mask=MASKS, head_dropout=0.1, projection_dropout=0.3),
        "objective": SPA,
        "sampling": "balanced",
        "augmentation": AUGMENTATION,
        "mixup": MixupSettings(probability=0.5, alpha=2.0),
        "training": {
            "weight_average": 0.8, "layer_decay": 0.75,
            "schedule": ScheduleSettings(kind="linear", warmup_steps=3),
        },
    },
    "CNN14 in parts, watched, last": {
        "model": cnn14_settings(spec_mask=MASKS),
        "objective": TagObjectiveSettings(bce_weight=0, obce_weight=1),
        "mixup": MixupSettings(probability=1.0),
        "training": {"accumulation": 2, "keep": "last", "weight_average": 0.9, "precision": "bf16"},
        "watched": True,
    },
}  # fmt: skip


def spec_of(case: str, output: Path, data: Path) -> TaggingSpec:
    changes = dict(CASES[case])
    if changes.pop("watched", False):
        changes["watched"] = {"test": (str(data / "test.parquet"),)}
    return tiny_spec(output, data, **changes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("calls", [(1,), (4,), (8,), (2, 5, 4)], ids=str)
def test_a_run_that_was_killed_and_started_again_equals_the_uninterrupted_one(
    data: Path, tmp_path: Path, case: str, calls: tuple[int, ...]
):
    """The last one is killed in its steps 2, 5 and, gone on from step 3, 7."""
    result = trained(spec_of(case, tmp_path / "whole", data))
    spec = spec_of(case, tmp_path / "killed", data)
    for call in calls:
        killed(spec, call * spec.training.accumulation)
    assert not (tmp_path / "killed" / "result.json").exists()
    assert_same_run(tmp_path / "whole", tmp_path / "killed", (result, trained(spec)))


@pytest.mark.parametrize("where", ["measuring", "writing the model"])
def test_a_run_killed_while_it_measures_or_writes_goes_on_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    result = trained(spec_of("AST with everything", tmp_path / "whole", data))
    spec = spec_of("AST with everything", tmp_path / "killed", data)
    calls = iter([None, None, KeyboardInterrupt] if where == "measuring" else [KeyboardInterrupt])
    place, name = (TagMeasure, "measure") if where == "measuring" else (tag_spec, "save_tagger")
    original = getattr(place, name)

    def dying(*arguments: Any) -> Any:
        error = next(calls, None)
        if error is not None:
            raise error
        return original(*arguments)

    monkeypatch.setattr(place, name, dying)
    with pytest.raises(KeyboardInterrupt):
        trained(spec)
    assert not (tmp_path / "killed" / "result.json").exists()
    assert_same_run(tmp_path / "whole", tmp_path / "killed", (result, trained(spec)))


def test_seeds_make_other_runs_and_threads_do_not(data: Path, tmp_path: Path):
    results: list[bytes] = []
    for number, (seed, threads) in enumerate([(3, 2), (3, 5), (4, 2)]):
        spec = spec_of("AST with everything", tmp_path / str(number), data)
        settings = spec.training.model_copy(update={"loader_threads": threads, "cache_mib": 0 if threads == 5 else 64})
        trained(replace(spec, seed=seed, training=settings))
        results.append(weights_of(tmp_path / str(number)))
    assert results[0] == results[1] != results[2]


def test_broken_clips_and_partners_are_replaced_counted_and_listed(tmp_path: Path, recorded: list[Recording]):
    data = write_data(tmp_path / "data", broken=(3, 17))
    held_out = write_tagged(tmp_path / "held.parquet", 13, prefix="held", broken=[6])
    changes: dict[str, Any] = {
        "held_out": (held_out,), "mixup": MixupSettings(probability=1.0), "training": {"max_unusable_share": 0.5},
    }  # fmt: skip
    result = trained(tiny_spec(tmp_path / "whole", data, **changes))
    replaced = [clip for batch in recorded[0].batches for clip in batch.unusable]
    assert result.clips_unusable == len(replaced) > 0
    assert result.unusable_outcomes == {"undecodable": len(replaced)}
    assert set(measured(result, "held_out", "clips").values()) == {12}
    rejects = storage.read_table(str(tmp_path / "whole" / "rejects.parquet")).to_pylist()
    listed = sorted((row["stage"], row["clip_id"]) for row in rejects)
    assert listed == [("held_out", "held-0006"), ("train", "main-0003"), ("train", "main-0017")]
    killed(tiny_spec(tmp_path / "killed", data, **changes), 5)
    again = trained(tiny_spec(tmp_path / "killed", data, **changes))
    assert_same_run(tmp_path / "whole", tmp_path / "killed", (result, again))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.3 MB of clips in 9 row groups; 6 of the 90, in the last one, are sirens, the others rain."""
    folder = tmp_path_factory.mktemp("grouped")
    labels = {clip: ["Siren" if clip >= 84 else "Rain"] for clip in range(90)}
    write_tagged(folder / "main.parquet", 90, prefix="main", labels=labels, row_group_rows=10)
    return folder


@pytest.mark.parametrize("memory_mib", [1, 64])
@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_balanced_sampling_draws_a_rare_class_as_often_however_the_table_is_held(
    data: Path,
    grouped: Path,
    tmp_path: Path,
    recorded: list[Recording],
    caplog: pytest.LogCaptureFixture,
    memory_mib: int,
    sampling: str,
):
    caplog.set_level(logging.INFO, logger="raysem")
    changes: dict[str, Any] = {
        "sources": (str(grouped / "main.parquet"),), "sampling": sampling, "mixup": MixupSettings(probability=0.5),
        "training": {"steps": 18, "batch_size": 10, "table_memory_mib": memory_mib, "evaluate_every_steps": 9},
    }  # fmt: skip
    result = trained(tiny_spec(tmp_path / "whole", data, **changes))
    held = "read by 9 row groups" if memory_mib == 1 else "in memory"
    how = "drawn with weights that balance the classes" if sampling == "balanced" else "9.0 batches of 10 an epoch"
    assert f"tagger clips: 90 clips, {held}, {how}" in caplog.text
    drawn = [clip_id for batch in recorded[0].batches for clip_id in batch.clip_ids]
    sirens = sum(clip_id >= "main-0084" for clip_id in drawn)
    assert len(drawn) == 180
    mixed = sum(batch.num_mixed for batch in recorded[0].batches)
    assert 60 < mixed < 120
    assert result.clips_loaded == 180 + mixed  # the clips mixed in count, too
    if sampling == "balanced":
        assert abs(sirens - 90) < 27  # four times the spread of independent draws
    else:
        assert sirens == 12
    killed(tiny_spec(tmp_path / "killed", data, **changes), 11)
    again = trained(tiny_spec(tmp_path / "killed", data, **changes))
    assert_same_run(tmp_path / "whole", tmp_path / "killed", (result, again))
