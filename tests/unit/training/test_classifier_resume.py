"""Runs of a classifier that are killed and gone on with: to the bit what they would have been."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_classifying import (
    assert_same_run,
    classifier_settings,
    files_of,
    killed,
    stopping,
    tiny_spec,
    trained,
    write_data,
)

from raysem.audio.augment import AUDIOCLIP_AUGMENTATION, AugmentSettings
from raysem.training import classifier_spec
from raysem.training.classifier_measure import ClassMeasure
from raysem.training.classifier_objective import ClassifierObjectiveSettings
from raysem.training.classifier_spec import ClassifierSpec
from raysem.training.context import process_settings
from raysem.training.schedule import ScheduleSettings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with process_settings(1, torch.device("cpu")):  # several are slower for so few channels
        yield


CASES: dict[str, dict[str, Any]] = {
    "cscm, augmented": {
        "model": {"similarity": "cscm", "trained": True, "audio_dropout": 0.2},
        "augmentation": AUDIOCLIP_AUGMENTATION,
        "epochs": 2,
        "training": {
            "optimizer": "sgd", "weight_decay": 5e-4, "schedule": ScheduleSettings(kind="exponential", gamma=0.5),
        },
    },
    "baseline in parts, averaged": {
        "model": {"similarity": None, "audio_dropout": 0.2},
        "augmentation": AUDIOCLIP_AUGMENTATION,
        "training": {"accumulation": 2, "keep": "last", "weight_average": 0.9, "precision": "bf16"},
    },
    "frozen text": {
        "model": {"similarity": "seq_transf", "shared_width": 16},
        "objective": ClassifierObjectiveSettings(form="diagonal"),
    },
}  # fmt: skip


def spec_of(case: str, output: Path, data: Path, text: Path) -> ClassifierSpec:
    changes = dict(CASES[case])
    return tiny_spec(output, data, text, model=classifier_settings(text, **changes.pop("model")), **changes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("calls", [(1,), (6,), (2, 5, 4)], ids=str)
def test_a_run_that_was_killed_and_started_again_equals_the_uninterrupted_one(
    data: Path, bert_folder: Path, tmp_path: Path, case: str, calls: tuple[int, ...]
):
    """The last one is killed in its steps 2, 5 and, gone on from step 3, 7."""
    result = trained(spec_of(case, tmp_path / "whole", data, bert_folder))
    spec = spec_of(case, tmp_path / "killed", data, bert_folder)
    for call in calls:
        killed(spec, call * spec.training.accumulation)
    assert not (tmp_path / "killed" / "result.json").exists()
    assert_same_run(tmp_path / "whole", tmp_path / "killed", (result, trained(spec)))


@pytest.mark.parametrize("where", ["measuring", "writing the model"])
def test_a_run_killed_while_it_measures_or_writes_goes_on_too(
    data: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    result = trained(spec_of("cscm, augmented", tmp_path / "whole", data, bert_folder))
    spec = spec_of("cscm, augmented", tmp_path / "killed", data, bert_folder)
    calls = iter([None, None, KeyboardInterrupt] if where == "measuring" else [KeyboardInterrupt])
    place, name = (ClassMeasure, "measure") if where == "measuring" else (classifier_spec, "save_classifier")
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


def test_seeds_and_augmentation_make_other_runs_and_threads_do_not(data: Path, bert_folder: Path, tmp_path: Path):
    spec = spec_of("cscm, augmented", tmp_path / "first", data, bert_folder)
    threads = spec.training.model_copy(update={"loader_threads": 5, "cache_mib": 0, "prefetch_batches": 0})
    others = {
        "threads": replace(spec, training=threads),
        "seed": replace(spec, seed=4),
        "plain": replace(spec, augmentation=AugmentSettings()),
    }
    trained(spec)
    first = files_of(tmp_path / "first" / "model")
    for name, other in others.items():
        trained(replace(other, output=str(tmp_path / name)))
        assert (files_of(tmp_path / name / "model") == first) == (name == "threads"), name


def test_a_finished_run_returns_what_it_found_and_takes_no_step(data: Path, bert_folder: Path, tmp_path: Path):
    spec = spec_of("cscm, augmented", tmp_path, data, bert_folder)
    result, before = trained(spec), files_of(tmp_path)
    with stopping(1) as begun:
        assert trained(spec) == result
    assert [objective.calls for objective in begun] == [0]
    assert files_of(tmp_path) == before
    assert not any(name.startswith("checkpoints") for name in before)
