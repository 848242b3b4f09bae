"""Two gloo ranks equal one process on the joined batch: the objectives of classification, the measure, whole runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifying import (
    classifier_settings,
    label_batch,
    text_without_dropout,
    tiny_classifier,
    tiny_spec,
    write_data,
    write_labelled,
)
from tiny_tagging import tagged_loader
from torch.nn.parallel import DistributedDataParallel
from two_ranks import on_two_ranks

from raysem.audio.augment import AUDIOCLIP_AUGMENTATION
from raysem.errors import DataError
from raysem.models.classifier_checkpoint import load_classifier
from raysem.training.batch_norm import normalise_over_ranks
from raysem.training.classifier_measure import ClassMeasure
from raysem.training.classifier_objective import ClassifierObjectiveSettings, LinearObjective, PromptObjective
from raysem.training.context import LocalContext, process_settings
from raysem.training.draws import draw_seed
from raysem.training.loader import ClipBatch
from raysem.training.network import freeze_unreached
from raysem.training.schedule import ScheduleSettings

CPU = torch.device("cpu")
LABELS = {
    "shared by the ranks": ("Rain", "Rain", "Bark", "Siren", "Meow", "Bark", "Rain", "Choir"),
    "apart": ("Rain", "Bark", "Siren", "Meow", "Rain", "Bark", "Siren", "Meow"),
    "one on rank 0, four on rank 1": ("Rain", "Bark", "Rain", "Siren", "Rain", "Meow", "Rain", "Rain"),
    "one alone": ("Rain",) * 8,
}
MODELS: dict[str, dict[str, Any]] = {
    "frozen text": {},
    "trained text": {"trained": True},
    "trained text, cscm": {"trained": True, "similarity": "cscm"},
    "baseline": {"similarity": None},
}


@dataclass(frozen=True)
class Case:
    """What is trained on whose labels. `near`: how near two ranks come to one process.

    Without batch norms they agree to rounding; those of CSCM make more of it.
    """

    model: str
    form: str
    labels: str
    near: float = 1e-4


CASES = [Case(model, form, labels, 2e-3 if "cscm" in model else 1e-4)
         for model in MODELS for labels in LABELS for form in ("multi_positive", "diagonal")
         if model != "baseline" or form == "multi_positive"]  # fmt: skip


def losses_and_gradients(case: Case, text: str, context: LocalContext) -> dict[str, Any]:
    model = tiny_classifier(classifier_settings(Path(text), **MODELS[case.model])).train()
    objective = objective_of(model, case.form)
    freeze_unreached(model, objective, model.crop_samples, context)
    normalise_over_ranks(model, CPU)
    if context.world_size > 1:
        objective.network = DistributedDataParallel(objective.network)
    batch, mine = label_batch(LABELS[case.labels]), slice(context.rank, None, context.world_size)
    (loss,) = objective.losses(
        ClipBatch(batch.waveform_BT[mine], batch.texts[mine], batch.clip_ids[mine], batch.source)
    ).losses.values()  # fmt: skip
    loss.backward()
    return {
        "loss": float(loss.detach()),
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "statistics": {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name},
    }


def objective_of(model: Any, form: str) -> PromptObjective | LinearObjective:
    if not model.reads_text:
        return LinearObjective(model, CPU)
    return PromptObjective(model, ClassifierObjectiveSettings(form=form), CPU)  # type: ignore[arg-type]


def with_dropout(text: str, context: LocalContext) -> dict[str, float]:
    """Both forms where a label has one vector on each rank, by dropout in the text encoder."""
    found = {}
    for form in ("multi_positive", "diagonal"):
        model = tiny_classifier(classifier_settings(Path(text), trained=True)).train()
        torch.manual_seed(context.rank)
        batch, mine = label_batch(LABELS["shared by the ranks"]), slice(context.rank, None, 2)
        share = ClipBatch(batch.waveform_BT[mine], batch.texts[mine], batch.clip_ids[mine], batch.source)
        found[form] = float(objective_of(model, form).losses(share).losses["label_contrastive"].detach())
    return found


def measures(data: Path, text: str, context: LocalContext) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, num_clips in (("held_out", 13), ("broken", 13), ("one", 1)):
        for kind in ("frozen text", "baseline"):
            clips = tagged_loader(str(data / f"{name}.parquet"))
            places_N = np.array([row * 5 % 6 for row in range(num_clips)])
            measure = ClassMeasure(clips, 0, places_N, name=name, batch_size=3, num_threads=2)
            model = tiny_classifier(classifier_settings(Path(text), **MODELS[kind]))
            found[f"{name}, {kind}"] = measure.measure(model, context), sorted(measure.unusable)
    return found


def unusable_set(data: Path, text: str, context: LocalContext) -> str:
    clips = tagged_loader(str(data / "lost.parquet"))
    measure = ClassMeasure(clips, 0, np.zeros(3, np.int64), name="lost", batch_size=3, num_threads=2)
    with pytest.raises(DataError) as raised:
        measure.measure(tiny_classifier(classifier_settings(Path(text))), context)
    return str(raised.value)


SHORT = {
    "steps": 4, "learning_rate": 1e-2, "optimizer": "sgd", "evaluate_every_steps": 2,
    "schedule": ScheduleSettings(kind="exponential", steps_per_decay=2),
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "trained text, cscm": {"training": SHORT},
    "frozen text": {"training": SHORT | {"keep": "last", "accumulation": 2}},
    "baseline": {"training": SHORT | {"optimizer": "adamw", "learning_rate": 1e-3, "weight_average": 0.8}},
}


def runs(data: Path, text: str, output: Path, context: LocalContext) -> dict[str, Any]:
    return {
        name: tiny_spec(
            output / name, data, Path(text), model=classifier_settings(Path(text), **MODELS[name]),
            augmentation=AUDIOCLIP_AUGMENTATION, **changes,
        ).train(context)
        for name, changes in RUNS.items()
    }  # fmt: skip


def everything(rank: int, data: str, text: str, dropping_text: str, output: str) -> dict[str, Any]:
    context = LocalContext.current("cpu")
    assert context.rank == rank
    with process_settings(1, CPU):
        return {
            "objectives": {case: losses_and_gradients(case, text, context) for case in CASES},
            "with dropout": with_dropout(dropping_text, context) if context.world_size > 1 else {},
            "measures": measures(Path(data), text, context),
            "unusable": unusable_set(Path(data), text, context),
            "runs": runs(Path(data), text, Path(output), context),
        }


Found = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def text(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_without_dropout(bert_folder, tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, text: Path, bert_folder: Path) -> Found:
    """What one process finds, and what each of two ranks does."""
    folder = tmp_path_factory.mktemp("ranks")
    data = write_data(folder / "data")
    write_labelled(data / "broken.parquet", 13, prefix="broken", broken=[0, 4, 9])
    write_labelled(data / "one.parquet", 1, prefix="one")
    write_labelled(data / "lost.parquet", 3, prefix="lost", broken=[0, 1, 2])
    inputs = (str(data), str(text), str(bert_folder))
    alone = everything(0, *inputs, str(folder / "alone"))
    return alone, on_two_ranks(everything, folder / "ranks", *inputs, str(folder / "two"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}, {case.form}, {case.labels}")
def test_loss_and_gradients_of_two_ranks_are_those_of_the_joined_batch(found: Found, case: Case):
    alone, ranks = found
    one = alone["objectives"][case]
    largest = max(float(gradient.abs().max()) for gradient in one["gradients"].values())
    assert largest > 1e-3
    for two in (rank["objectives"][case] for rank in ranks):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert two["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            near = case.near * max(float(gradient.abs().max()), 1e-2 * largest)
            assert float((two["gradients"][name] - gradient).abs().max()) <= near, name
        for name, statistic in one["statistics"].items():
            torch.testing.assert_close(two["statistics"][name], statistic, rtol=1e-5, atol=1e-6)
    assert any(name.startswith("text_encoder.") for name in one["gradients"]) == case.model.startswith("trained")
    assert ("cscm" in case.model) == (len(one["statistics"]) == 4)


def test_the_forms_part_where_each_rank_has_its_own_vector_of_a_label(found: Found):
    """By dropout in the text encoder; in one process the two are equal (test_classifier_objective.py)."""
    first, second = (rank["with dropout"] for rank in found[1])
    assert first == second
    assert abs(first["multi_positive"] - first["diagonal"]) > 1e-4


def test_the_accuracy_of_two_ranks_is_that_of_one_process(found: Found):
    alone, ranks = found
    for name, (expected, listed) in alone["measures"].items():
        broken = name.startswith("broken")
        assert expected["clips"] == (1 if name.startswith("one") else 10 if broken else 13)
        assert listed == ([f"broken-{clip:04d}" for clip in (0, 4, 9)] if broken else [])
        shares = [rank["measures"][name] for rank in ranks]
        assert [measured for measured, _ in shares] == [expected, expected]
        assert [share for _, share in shares] == [[clip for clip in listed if int(clip[-1]) % 2 == r] for r in (0, 1)]
    assert any(0 < measured["accuracy"] < 1 for measured, _ in alone["measures"].values())
    assert [one["unusable"] for one in (alone, *ranks)] == ["set lost: no clip can be used"] * 3


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_ranks_is_the_run_of_one_process(found: Found, name: str, text: Path):
    alone, ranks = found
    one = alone["runs"][name]
    for two in (rank["runs"][name] for rank in ranks):
        assert (two.best_step, two.clips_loaded, two.steps) == (one.best_step, one.clips_loaded, one.steps)
        assert two.history == one.history
    assert ranks[0]["runs"][name] == ranks[1]["runs"][name]
    assert [record["step"] for record in one.history] == [0, 2, 4]
    expected, written = (load_classifier(result.model).state_dict() for result in (one, ranks[0]["runs"][name]))
    for weight, tensor in expected.items():
        torch.testing.assert_close(written[weight], tensor, rtol=1e-4, atol=5e-5, msg=lambda m, w=weight: f"{w}: {m}")
    start = tiny_classifier(classifier_settings(text, **MODELS[name]), seed=draw_seed("initial weights", 3))
    moved = {weight: float((expected[weight] - tensor).abs().max()) for weight, tensor in start.state_dict().items()}
    assert max(moved.values()) > 1e-3
    text_moved = max((far for weight, far in moved.items() if weight.startswith("text_encoder.")), default=0.0)
    assert (text_moved > 0) == name.startswith("trained")
