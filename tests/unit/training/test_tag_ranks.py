"""Two gloo ranks equal one process on the joined batch: the objective of tagging, its measure, whole runs."""

from __future__ import annotations

from dataclasses import dataclass
from math import tau
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tagging import (
    SPA,
    ast_settings,
    cnn14_settings,
    tagged_loader,
    tiny_classes,
    tiny_spec,
    tiny_tagger,
    write_data,
    write_tagged,
)
from torch.nn.parallel import DistributedDataParallel
from two_ranks import on_two_ranks

from raysem.audio.augment import AugmentSettings
from raysem.errors import DataError, StorageError
from raysem.models.tagger_checkpoint import load_tagger
from raysem.training import clips as clips_module
from raysem.training.batch_norm import normalise_over_ranks
from raysem.training.context import LocalContext, TrainingStorageError, process_settings
from raysem.training.draws import draw_seed
from raysem.training.loader import ClipBatch
from raysem.training.network import freeze_unreached
from raysem.training.tag_examples import MixupSettings
from raysem.training.tag_measure import TagMeasure
from raysem.training.tag_objective import TaggingObjective, TagObjectiveSettings

# Shapes: B clips, T samples.

CPU = torch.device("cpu")
ALL = TagObjectiveSettings(bce_weight=1.0, obce_weight=1.0, spa_weight=1.0)
OBJECTIVES: dict[str, tuple[TagObjectiveSettings, dict[str, float]]] = {
    "bce alone": (TagObjectiveSettings(), {"bce": 1.0}),
    "obce alone": (TagObjectiveSettings(bce_weight=0, obce_weight=1), {"obce": 1.0}),
    "spa": (ALL, {"bce": 0.0, "obce": 0.0, "spa": 1.0}),
    "spa per label": (ALL.model_copy(update={"spa_form": "per_label"}), {"bce": 0.0, "obce": 0.0, "spa": 1.0}),
    "sum": (SPA, SPA.by_name),
}
SOFT: list[dict[str, float]] = [
    {"Bark": 1.0}, {"Siren": 1.0, "Rain": 1.0}, {"Rain": 0.3, "Choir": 0.7}, {}, {"Meow": 1.0}, {"Thunder": 0.4},
    {"Choir": 1.0, "Bark": 0.6}, {"Rain": 1.0},
]  # fmt: skip
LABELS = {
    "of both ranks": SOFT,
    "of rank 0 alone": [labels if row % 2 == 0 else {} for row, labels in enumerate(SOFT)],
    "of none": [{} for _ in SOFT],
}


@dataclass(frozen=True)
class Case:
    """What is summed with which weights, for whose labels, and how near two ranks come to one process.

    Without batch norms they agree to rounding. The thirteen of CNN14 make 1e-5 in the spectrogram's statistics some
    3e-4 of the gradients' largest element.
    """

    encoder: str
    objective: str
    labels: str
    near: float


CASES = [Case("AST", objective, labels, 1e-5) for objective in OBJECTIVES for labels in LABELS]
CASES += [Case("CNN14", "sum", labels, 2e-3) for labels in LABELS]
ENCODERS = {"AST": ast_settings(projection="linear"), "CNN14": cnn14_settings(dropout=0.0)}


def joined_batch(labels: list[dict[str, float]]) -> ClipBatch:
    """Tones that rise in every third clip, in noise."""
    time_T = torch.arange(8000) / 8000
    noise_BT = 0.05 * torch.randn(8, 8000, generator=torch.Generator().manual_seed(0))
    tones = [
        (row + 1) / 20 * torch.sin(tau * (300 + 431 * row) * time_T * (1 + time_T * (row % 3))) for row in range(8)
    ]
    return ClipBatch(torch.stack(tones) + noise_BT, list(labels), [str(row) for row in range(8)], 0)


def losses_and_gradients(case: Case, context: LocalContext) -> dict[str, Any]:
    settings, weights = OBJECTIVES[case.objective]
    model = tiny_tagger(ENCODERS[case.encoder]).train()
    objective = TaggingObjective(model, tiny_classes(), settings, CPU)
    freeze_unreached(model, objective, model.crop_samples, context)
    normalise_over_ranks(model, CPU)
    if context.world_size > 1:
        objective.network = DistributedDataParallel(objective.network)
    batch, mine = joined_batch(LABELS[case.labels]), slice(context.rank, None, context.world_size)
    share = ClipBatch(batch.waveform_BT[mine], batch.texts[mine], batch.clip_ids[mine], batch.source)
    losses = objective.losses(share).losses
    torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
    return {
        "losses": {name: float(loss.detach()) for name, loss in losses.items()},
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "statistics": {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name},
    }


def measures(data: Path, context: LocalContext) -> dict[str, tuple[dict[str, float], list[str]]]:
    found = {}
    for name in ("held_out", "broken", "one"):
        clips = tagged_loader(str(data / f"{name}.parquet"))
        measure = TagMeasure(clips, 0, tiny_classes(), name=name, chooses=False, batch_size=3, num_threads=2)
        found[name] = measure.measure(tiny_tagger(), context), sorted(measure.unusable)
    return found


def errors(data: Path, context: LocalContext) -> list[str]:
    """A store that fails on rank 1 alone, and a set in which no rank finds a label."""
    found: list[str] = []
    load = clips_module.load_clip

    def gone(*arguments: Any, **settings: Any) -> Any:
        raise StorageError("s3://clips: access denied")

    for name, load_there, kind in (("held_out", gone, TrainingStorageError), ("silent", load, DataError)):
        clips_module.load_clip = load_there if context.rank == 1 else load
        clips = tagged_loader(str(data / f"{name}.parquet"))
        measure = TagMeasure(clips, 0, tiny_classes(), name=name, chooses=False, batch_size=3, num_threads=2)
        try:
            measure.measure(tiny_tagger(), context)
        except kind as error:
            found.append(str(error))
        finally:
            clips_module.load_clip = load
    return found


SHORT = {"steps": 3, "learning_rate": 1e-3, "evaluate_every_steps": 2}
RUNS: dict[str, dict[str, Any]] = {
    "CNN14": {
        "model": cnn14_settings(dropout=0.0), "training": SHORT | {"weight_average": 0.8}, "sampling": "balanced",
    },
    "CNN14 in parts": {
        "model": cnn14_settings(dropout=0.0), "training": SHORT | {"accumulation": 2, "keep": "last"},
    },
    "AST": {
        "model": ast_settings(projection_dropout=0.0), "training": SHORT | {"layer_decay": 0.75},
        "sampling": "balanced",
    },
}  # fmt: skip


def runs(data: Path, output: Path, context: LocalContext) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "objective": SPA, "mixup": MixupSettings(probability=0.5),
        "watched": {"broken": (str(data / "broken.parquet"),)},
        "augmentation": AugmentSettings(gain_db=(-6.0, 6.0), time_shift_seconds=0.05),
    }  # fmt: skip
    return {name: tiny_spec(output / name, data, **(shared | changes)).train(context) for name, changes in RUNS.items()}


def everything(rank: int, data: str, output: str) -> dict[str, Any]:
    context = LocalContext.current("cpu")
    assert context.rank == rank
    with process_settings(1, CPU):
        return {
            "objectives": {case: losses_and_gradients(case, context) for case in CASES},
            "measures": measures(Path(data), context),
            "errors": errors(Path(data), context) if context.world_size > 1 else [],
            "runs": runs(Path(data), Path(output), context),
        }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one process finds, and what each of two ranks does."""
    folder = tmp_path_factory.mktemp("ranks")
    data = write_data(folder / "data")
    write_tagged(data / "broken.parquet", 13, prefix="broken", broken=[0, 4, 9])
    write_tagged(data / "one.parquet", 1, prefix="one")
    write_tagged(data / "silent.parquet", 3, labels={clip: [] for clip in range(3)})
    alone = everything(0, str(data), str(folder / "alone"))
    return alone, on_two_ranks(everything, folder / "ranks", str(data), str(folder / "two"))


Found = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.encoder}, {case.objective}, {case.labels}")
def test_losses_and_gradients_of_two_ranks_are_those_of_the_joined_batch(found: Found, case: Case):
    alone, ranks = found
    one = alone["objectives"][case]
    largest = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    assert (largest > 1e-2) == (case.objective[:3] != "spa" or case.labels != "of none")
    for two in (rank["objectives"][case] for rank in ranks):
        assert two["losses"] == pytest.approx(one["losses"], rel=2e-5)
        assert two["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            near = case.near * max(float(gradient.abs().max()), 1e-2 * largest)
            assert float((two["gradients"][name] - gradient).abs().max()) <= near, name
        for name, statistic in one["statistics"].items():
            torch.testing.assert_close(two["statistics"][name], statistic, rtol=1e-5, atol=1e-6)


def test_measures_of_two_ranks_are_those_of_one_process(found: Found):
    alone, ranks = found
    for name, clips, unusable in (("held_out", 13, []), ("one", 1, []), ("broken", 10, ["0000", "0004", "0009"])):
        expected, listed = alone["measures"][name]
        assert expected["clips"] == clips
        assert listed == [f"{name}-{clip}" for clip in unusable]
        shares = [rank["measures"][name] for rank in ranks]
        for measured, _ in shares:
            assert measured == pytest.approx(expected, abs=1e-12)
        assert [share for _, share in shares] == [[clip for clip in listed if int(clip[-1]) % 2 == r] for r in (0, 1)]


def test_an_error_of_one_rank_while_measuring_stops_both_with_its_line(found: Found):
    for rank in found[1]:
        assert rank["errors"] == ["s3://clips: access denied", "set silent: no usable clip has a label"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_ranks_is_the_run_of_one_process(found: Found, name: str):
    alone, ranks = found
    one = alone["runs"][name]
    for two in (rank["runs"][name] for rank in ranks):
        assert (two.best_step, two.clips_loaded, two.steps) == (one.best_step, one.clips_loaded, one.steps)
        assert [(r["step"], r["kind"], r["clips"]) for r in two.history] == [
            (r["step"], r["kind"], r["clips"]) for r in one.history
        ]
        for record_one, record_two in zip(one.history, two.history, strict=True):
            assert record_two["omap"] == pytest.approx(record_one["omap"], abs=1e-6)
            assert record_two["map"] == pytest.approx(record_one["map"], abs=1e-6)
    assert ranks[0]["runs"][name] == ranks[1]["runs"][name]
    expected, written = (load_tagger(result.model).state_dict() for result in (one, ranks[0]["runs"][name]))
    for weight, tensor in expected.items():
        torch.testing.assert_close(written[weight], tensor, rtol=1e-5, atol=2e-5)
    start = tiny_tagger(RUNS[name]["model"], seed=draw_seed("initial weights", 3)).state_dict()
    assert max(float((expected[weight] - tensor).abs().max()) for weight, tensor in start.items()) > 1e-3
