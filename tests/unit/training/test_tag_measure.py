"""mAP and OmAP of a tagger in training: every clip of a table once, whoever scores it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tagging import (
    cnn14_settings,
    labels_of,
    tagged_loader,
    tiny_classes,
    tiny_tagger,
    with_statistics_of,
    write_tagged,
)
from torch import Tensor

from raysem.errors import DataError, StorageError
from raysem.metrics.average_precision import mean_average_precision
from raysem.metrics.ontology_aware import ontology_aware_average_precision
from raysem.models.tagger import Tagger
from raysem.training import clips as clips_module
from raysem.training.clips import ClipLoader, centre_crops
from raysem.training.context import LocalContext, TrainingStorageError, process_settings
from raysem.training.tag_measure import TagMeasure

# Shapes: N clips of a table, T samples, K classes.

NUM_CLIPS, CPU = 13, torch.device("cpu")
CLASSES = tiny_classes()
UNLABELLED: dict[int, list[str]] = {5: []}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, CPU):  # several are slower for so few channels
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole.parquet`; `broken.parquet`, of whose clips three are; `silent.parquet` without labels."""
    folder = tmp_path_factory.mktemp("data")
    write_tagged(folder / "whole.parquet", NUM_CLIPS, labels=UNLABELLED)
    write_tagged(folder / "broken.parquet", NUM_CLIPS, labels=UNLABELLED, broken=[0, 4, 12])
    write_tagged(folder / "silent.parquet", 3, labels={clip: [] for clip in range(3)})
    return folder


@pytest.fixture(scope="module")
def tagger(folder: Path) -> Tagger:
    """With dropout, in training mode."""
    model = tiny_tagger(cnn14_settings())
    with process_settings(1, CPU):
        return with_statistics_of(crops(table(folder, "whole"), range(NUM_CLIPS), model.crop_samples), model)


def table(folder: Path, name: str) -> ClipLoader:
    return tagged_loader(str(folder / f"{name}.parquet"))


def measure_of(clips: ClipLoader, **changes: Any) -> TagMeasure:
    settings: dict[str, Any] = {"name": "held_out", "chooses": True, "batch_size": 4, "num_threads": 2}
    return TagMeasure(clips, 0, CLASSES, **(settings | changes))


def targets(rows: Sequence[int]) -> np.ndarray:
    return CLASSES.targets([UNLABELLED.get(row, labels_of(row)) for row in rows], where="here")


def crops(clips: ClipLoader, rows: Sequence[int], num_samples: int) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return centre_crops(clips, 0, rows, crop_samples=num_samples, pool=pool)[1]


def at_once(tagger: Tagger, clips: ClipLoader, rows: Sequence[int]) -> np.ndarray:
    """The scores of some rows from one call."""
    return tagger.score_waveforms(crops(clips, rows, tagger.crop_samples).numpy())


def watched(tagger: Tagger, measure: TagMeasure, context: LocalContext) -> tuple[list[bytes], dict[str, float]]:
    """The waveforms that reach the tagger, and what is measured."""
    seen: list[bytes] = []
    hook = tagger.register_forward_pre_hook(lambda _, inputs: seen.extend(row.numpy().tobytes() for row in inputs[0]))
    found = measure.measure(tagger, context)
    hook.remove()
    return seen, found


def test_map_and_omap_are_those_of_all_clips_scored_at_once(folder: Path, tagger: Tagger):
    clips = table(folder, "whole")
    scores_NK, targets_NK = at_once(tagger, clips, range(NUM_CLIPS)), targets(range(NUM_CLIPS))
    assert scores_NK.std(axis=0).min() > 1e-3, "the clips must differ"
    found = measure_of(clips).measure(tagger, LocalContext())
    expected = ontology_aware_average_precision(scores_NK, targets_NK, CLASSES.distance_KK)
    assert found["omap"] == pytest.approx(expected, abs=1e-12)
    assert found["map"] == pytest.approx(mean_average_precision(scores_NK, targets_NK), abs=1e-12)
    assert found["map"] < found["omap"] < 1
    assert found.keys() == {"map", "omap", "clips"}


@pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 1), (4, 3), (5, 1), (13, 2), (64, 4)])
def test_batches_and_threads_change_nothing_and_every_clip_comes_once(
    folder: Path, tagger: Tagger, batch_size: int, num_threads: int
):
    clips = table(folder, "whole")
    expected = measure_of(clips).measure(tagger, LocalContext())
    measure = measure_of(clips, batch_size=batch_size, num_threads=num_threads)
    seen, found = watched(tagger, measure, LocalContext())
    assert found == pytest.approx(expected, abs=1e-12)
    assert found["clips"] == NUM_CLIPS
    everything = [row.numpy().tobytes() for row in crops(clips, range(NUM_CLIPS), tagger.crop_samples)]
    assert seen == everything


@pytest.mark.parametrize("world_size", [2, 3, 5, 7])
def test_the_ranks_share_the_clips_without_overlap(folder: Path, tagger: Tagger, world_size: int):
    """Without a process group each rank has its own share to tell; with one they are summed (test_tag_ranks.py)."""
    clips = table(folder, "whole")
    everything = [row.numpy().tobytes() for row in crops(clips, range(NUM_CLIPS), tagger.crop_samples)]
    shares = [
        watched(tagger, measure_of(clips), LocalContext(rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]  # fmt: skip
    assert sorted(row for seen, _ in shares for row in seen) == sorted(everything)
    assert sum(found["clips"] for _, found in shares) == NUM_CLIPS
    assert max(len(seen) for seen, _ in shares) - min(len(seen) for seen, _ in shares) == 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_clips_that_cannot_be_used_are_left_out_and_listed(folder: Path, tagger: Tagger, batch_size: int):
    clips = table(folder, "broken")
    rest = [row for row in range(NUM_CLIPS) if row not in (0, 4, 12)]
    measure = measure_of(clips, batch_size=batch_size)
    seen, found = watched(tagger, measure, LocalContext())
    assert len(seen) == found["clips"] == 10
    assert sorted(measure.unusable) == ["clip-0000", "clip-0004", "clip-0012"]
    assert {clip.outcome for clip in measure.unusable.values()} == {"undecodable"}
    scores_NK, targets_NK = at_once(tagger, clips, rest), targets(rest)
    assert found["map"] == pytest.approx(mean_average_precision(scores_NK, targets_NK), abs=1e-12)
    expected = ontology_aware_average_precision(scores_NK, targets_NK, CLASSES.distance_KK)
    assert found["omap"] == pytest.approx(expected, abs=1e-12)
    assert measure.measure(tagger, LocalContext()) == found
    assert len(measure.unusable) == 3


def test_a_clip_without_labels_is_scored_too(folder: Path, tagger: Tagger):
    clips = table(folder, "whole")
    with_it = measure_of(clips).measure(tagger, LocalContext())
    rest = [row for row in range(NUM_CLIPS) if row != 5]
    scores_NK, targets_NK = at_once(tagger, clips, rest), targets(rest)
    assert with_it["map"] < mean_average_precision(scores_NK, targets_NK)  # its scores are false positives, all of them


def test_a_set_without_a_usable_label_is_said_by_name(folder: Path, tagger: Tagger):
    with pytest.raises(DataError, match=r"^set silent: no usable clip has a label$"):
        measure_of(table(folder, "silent")).measure(tagger, LocalContext())


def test_an_unknown_label_is_said_before_anything_is_measured(tmp_path: Path):
    clips = tagged_loader(write_tagged(tmp_path / "odd.parquet", 3, labels={1: ["Rain", "Drizzle"]}))
    with pytest.raises(DataError, match="set odd: label 'Drizzle' is none of the 6 classes") as raised:
        measure_of(clips)
    assert "\n" not in str(raised.value)


def test_scores_that_are_not_finite_give_nan_for_the_loop_to_stop_at(folder: Path):
    model = tiny_tagger()
    assert model.classifier is not None
    with torch.no_grad():
        model.classifier.bias[2] = float("nan")
    found = measure_of(table(folder, "whole")).measure(model, LocalContext())
    assert math.isnan(found["map"])
    assert math.isnan(found["omap"])
    assert found["clips"] == NUM_CLIPS


def test_a_failing_store_stops_the_run_and_not_the_clip(folder: Path, tagger: Tagger, monkeypatch: pytest.MonkeyPatch):
    def gone(*_: Any, **__: Any) -> np.ndarray:
        raise StorageError("s3://clips: access denied")

    monkeypatch.setattr(clips_module, "load_clip", gone)
    measure = measure_of(table(folder, "whole"))
    with pytest.raises(TrainingStorageError, match=r"^s3://clips: access denied$"):
        measure.measure(tagger, LocalContext())
    assert not measure.unusable


def test_mode_statistics_gradients_and_generator_are_as_before(folder: Path, tagger: Tagger):
    tagger.train()
    tagger.encoder.front_end.eval()
    modes = [module.training for module in tagger.modules()]
    buffers = {name: buffer.clone() for name, buffer in tagger.named_buffers()}
    before = torch.get_rng_state()
    first = measure_of(table(folder, "whole")).measure(tagger, LocalContext())
    assert [module.training for module in tagger.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in tagger.named_buffers())
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in tagger.parameters())
    tagger.train()
    assert measure_of(table(folder, "whole")).measure(tagger, LocalContext()) == first
