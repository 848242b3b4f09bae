"""The accuracy of a classifier in training: that of scoring the same clips afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifying import classifier_settings, tiny_classifier, write_labelled
from tiny_tagging import tagged_loader
from torch import Tensor, nn

from raysem.errors import DataError, StorageError
from raysem.models.classifier import Classifier
from raysem.models.protocol import exact_evaluation
from raysem.training import clips as clips_module
from raysem.training.classifier_measure import ClassMeasure
from raysem.training.clips import ClipLoader, centre_crops
from raysem.training.context import LocalContext, TrainingStorageError, process_settings

# Shapes: N clips of a table, K labels.

NUM_CLIPS, CPU = 13, torch.device("cpu")
EVERY_CLIP = range(NUM_CLIPS)
PLACES_N = np.array([row % 6 for row in EVERY_CLIP])
KINDS = {"prompts": "mean", "cscm": "cscm", "baseline": None}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, CPU):  # several are slower for so few channels
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole.parquet`; `broken.parquet`, of whose clips three are; `lost.parquet`, of whose clips all are."""
    folder = tmp_path_factory.mktemp("data")
    write_labelled(folder / "whole.parquet", NUM_CLIPS)
    write_labelled(folder / "broken.parquet", NUM_CLIPS, broken=[0, 4, 12])
    write_labelled(folder / "lost.parquet", 3, broken=[0, 1, 2])
    return folder


def classifier_of(text: Path, kind: str = "prompts", **changes: Any) -> Classifier:
    """In training mode, with dropout."""
    settings = classifier_settings(text, KINDS[kind], audio_dropout=0.3, **changes)  # type: ignore[arg-type]
    return tiny_classifier(settings).train()


def spread(classifier: Classifier, clips: ClipLoader) -> Classifier:
    """The same with outputs whose mean over the clips is 0: an untrained one calls them all by one name."""
    last = classifier.classifier if classifier.similarity is None else classifier.similarity.projection
    assert isinstance(last, nn.Linear | nn.Conv2d)
    assert last.bias is not None
    with exact_evaluation(classifier):
        last.bias -= classifier.encode_audio(crops(classifier, clips, EVERY_CLIP)).mean(0)
    return classifier


def table(folder: Path, name: str) -> ClipLoader:
    return tagged_loader(str(folder / f"{name}.parquet"))


def measure_of(clips: ClipLoader, places_N: np.ndarray = PLACES_N, **changes: Any) -> ClassMeasure:
    settings: dict[str, Any] = {"name": "held_out", "batch_size": 4, "num_threads": 2}
    return ClassMeasure(clips, 0, places_N, **(settings | changes))


def scored(classifier: Classifier, clips: ClipLoader, rows: Sequence[int]) -> np.ndarray:
    """probabilities_NK of some rows, from one call of `score_waveforms`."""
    text_KC = classifier.embed_labels(classifier.labels) if classifier.reads_text else None
    return classifier.score_waveforms(crops(classifier, clips, rows).numpy(), text_KC)


def crops(classifier: Classifier, clips: ClipLoader, rows: Sequence[int]) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return centre_crops(clips, 0, rows, crop_samples=classifier.crop_samples, pool=pool)[1]


def accuracy(scores_NK: np.ndarray, places_N: np.ndarray) -> float:
    """By hand: one of the best scores, shared."""
    found = [
        (place in np.flatnonzero(row == row.max())) / np.count_nonzero(row == row.max())
        for row, place in zip(scores_NK, places_N, strict=True)
    ]
    return sum(found) / len(found)


def called_best(classifier: Classifier, clips: ClipLoader, rows: Sequence[int] = EVERY_CLIP) -> np.ndarray:
    return scored(classifier, clips, rows).argmax(axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_accuracy_is_that_of_scoring_the_clips_afterwards(folder: Path, bert_folder: Path, kind: str):
    clips = table(folder, "whole")
    classifier = spread(classifier_of(bert_folder, kind), clips)
    scores_NK = scored(classifier, clips, EVERY_CLIP)
    assert len(set(scores_NK.argmax(axis=1))) > 2, "the clips must differ"
    assert measure_of(clips).measure(classifier, LocalContext()) == {
        "accuracy": pytest.approx(accuracy(scores_NK, PLACES_N), abs=1e-12),
        "clips": NUM_CLIPS,
    }
    best_N = scores_NK.argmax(axis=1)
    for wrong in (0, 1, 5):  # its own answers are right, whatever it says
        labels_N = best_N.copy()
        labels_N[:wrong] = (labels_N[:wrong] + 1) % 6
        found = measure_of(clips, labels_N).measure(classifier, LocalContext())
        assert found["accuracy"] == pytest.approx(1 - wrong / NUM_CLIPS, abs=1e-12)


def test_equal_scores_share_a_clip_and_no_label_gains_by_its_place(folder: Path, bert_folder: Path):
    classifier, clips = classifier_of(bert_folder, "baseline"), table(folder, "whole")
    assert classifier.classifier is not None
    with torch.no_grad():
        classifier.classifier.weight.zero_()
        classifier.classifier.bias.zero_()
    assert measure_of(clips).measure(classifier, LocalContext())["accuracy"] == pytest.approx(1 / 6, abs=1e-12)
    with torch.no_grad():
        classifier.classifier.bias[[1, 4]] = 2.0
    expected = sum(place in (1, 4) for place in PLACES_N) / 2 / NUM_CLIPS
    assert measure_of(clips).measure(classifier, LocalContext())["accuracy"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 1), (5, 1), (13, 2), (64, 4)])
def test_batches_and_threads_change_nothing(folder: Path, bert_folder: Path, batch_size: int, num_threads: int):
    clips = table(folder, "whole")
    classifier = spread(classifier_of(bert_folder, "cscm"), clips)
    labels_N = called_best(classifier, clips)
    labels_N[3] = (labels_N[3] + 1) % 6
    found = measure_of(clips, labels_N, batch_size=batch_size, num_threads=num_threads)
    assert found.measure(classifier, LocalContext()) == {
        "accuracy": pytest.approx(12 / 13, abs=1e-12),
        "clips": NUM_CLIPS,
    }


@pytest.mark.parametrize("batch_size", [1, 4])
def test_clips_that_cannot_be_used_are_left_out_and_listed(folder: Path, bert_folder: Path, batch_size: int):
    """Clip 4 is a broken one with a right label, clip 5 a whole one with a wrong one."""
    classifier, clips = classifier_of(bert_folder), table(folder, "broken")
    rest = [row for row in EVERY_CLIP if row not in (0, 4, 12)]
    labels_N = np.zeros(NUM_CLIPS, np.int64)
    labels_N[rest] = called_best(classifier, clips, rest)
    labels_N[5] = (labels_N[5] + 1) % 6
    measure = measure_of(clips, labels_N, batch_size=batch_size)
    found = measure.measure(classifier, LocalContext())
    assert found == {"accuracy": pytest.approx(9 / 10, abs=1e-12), "clips": 10}
    assert sorted(measure.unusable) == ["clip-0000", "clip-0004", "clip-0012"]
    assert {clip.outcome for clip in measure.unusable.values()} == {"undecodable"}
    assert measure.measure(classifier, LocalContext()) == found


def test_a_set_without_a_usable_clip_is_said_by_name(folder: Path, bert_folder: Path):
    with pytest.raises(DataError, match=r"^set lost: no clip can be used$"):
        measure_of(table(folder, "lost"), PLACES_N[:3]).measure(classifier_of(bert_folder), LocalContext())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["prompts", "baseline"])
def test_scores_that_are_not_finite_give_nan_for_the_loop_to_stop_at(
    folder: Path, bert_folder: Path, kind: str, value: float
):
    classifier = classifier_of(bert_folder, kind)
    broken = classifier.text_projection if kind == "prompts" else classifier.classifier
    assert broken is not None
    with torch.no_grad():
        broken.bias[2] = value
    found = measure_of(table(folder, "whole")).measure(classifier, LocalContext())
    assert math.isnan(found["accuracy"])
    assert found["clips"] == NUM_CLIPS


def test_prompts_are_read_anew_at_each_evaluation(folder: Path, bert_folder: Path):
    """A text encoder and its projection learn, too."""
    classifier, clips = classifier_of(bert_folder, trained=True), table(folder, "whole")
    labels_N = called_best(classifier, clips)
    measure = measure_of(clips, labels_N)
    assert measure.measure(classifier, LocalContext())["accuracy"] == 1
    assert classifier.text_encoder is not None
    with torch.no_grad():
        for parameter in classifier.text_encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = accuracy(scored(classifier, clips, EVERY_CLIP), labels_N)
    assert after < 1
    assert measure.measure(classifier, LocalContext())["accuracy"] == pytest.approx(after, abs=1e-12)


@pytest.mark.parametrize("world_size", [2, 5])
def test_the_ranks_share_the_clips(folder: Path, bert_folder: Path, world_size: int):
    """Without a process group each rank tells its own share; with one they agree (test_classifier_ranks.py)."""
    classifier, clips = classifier_of(bert_folder), table(folder, "whole")
    labels_N = called_best(classifier, clips)
    labels_N[[2, 7]] = (labels_N[[2, 7]] + 1) % 6
    shares = [
        measure_of(clips, labels_N).measure(classifier, LocalContext(rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]  # fmt: skip
    assert sum(share["clips"] for share in shares) == NUM_CLIPS
    assert sum(share["clips"] * share["accuracy"] for share in shares) == pytest.approx(11, abs=1e-9)


def test_a_failing_store_stops_the_run_and_not_the_clip(
    folder: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def gone(*_: Any, **__: Any) -> np.ndarray:
        raise StorageError("s3://clips: access denied")

    monkeypatch.setattr(clips_module, "load_clip", gone)
    measure = measure_of(table(folder, "whole"))
    with pytest.raises(TrainingStorageError, match=r"^s3://clips: access denied$"):
        measure.measure(classifier_of(bert_folder), LocalContext())
    assert not measure.unusable


@pytest.mark.parametrize("kind", KINDS)
def test_mode_statistics_gradients_and_generator_are_as_before(folder: Path, bert_folder: Path, kind: str):
    classifier = classifier_of(bert_folder, kind, trained=True)
    classifier.encoder.front_end.eval()
    modes = [module.training for module in classifier.modules()]
    buffers = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    before = torch.get_rng_state()
    first = measure_of(table(folder, "whole")).measure(classifier, LocalContext())
    assert [module.training for module in classifier.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in classifier.named_buffers())
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert measure_of(table(folder, "whole")).measure(classifier, LocalContext()) == first
    assert measure_of(table(folder, "whole")).chooses, "accuracy is what chooses the best step"
