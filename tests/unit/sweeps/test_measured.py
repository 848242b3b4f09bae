from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raysem.errors import StageError
from raysem.sweeps.measured import metric_of
from raysem.sweeps.ray_look import read_curve, read_spelled, spelled, trial_of
from raysem.sweeps.space import SweepSpace
from raysem.sweeps.trial import Trial, curve_of

HISTORY: list[dict[str, Any]] = [
    {"kind": "held_out", "step": 0, "omap": 0.9, "map": 0.1},
    {"kind": "held_out", "step": 10, "omap": 0.4, "map": 0.3},
    {"kind": "fold5", "step": 10, "omap": 0.99, "map": 0.99},
    {"kind": "held_out", "step": 20, "omap": 0.2, "map": 0.5},
    {"kind": "fold5", "step": 20, "omap": 0.98, "map": 0.98},
]


def summary(**best: float) -> dict[str, Any]:
    return {"training": {"history": HISTORY, "best_metrics": best}}


def test_the_metric_is_that_of_the_step_which_the_training_keeps():
    assert metric_of([summary(omap=0.4, map=0.3)], "map", keep="best") == 0.3
    assert metric_of([summary(omap=0.4, map=0.3)], "map", keep="last") == 0.5


def test_a_watched_test_set_is_never_the_metric():
    assert curve_of(HISTORY, "omap") == [{"step": 10, "metric": 0.4}, {"step": 20, "metric": 0.2}]
    assert metric_of([summary(omap=0.4)], "omap", keep="last") == 0.2


def test_a_cross_validation_is_measured_by_the_mean_of_its_folds():
    assert metric_of([summary(omap=0.4), summary(omap=0.8)], "omap", keep="best") == pytest.approx(0.6)


def test_a_training_that_measured_nothing_held_out_is_an_error():
    with pytest.raises(StageError, match="accuracy: was not measured in training"):
        metric_of([summary()], "accuracy", keep="last")


def test_a_curve_is_read_up_to_the_line_that_is_being_written(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    assert read_curve(str(file), "recall_at_1") == []
    file.write_text(
        '{"step": 0, "kind": "held_out", "recall_at_1": 0.1}\n{"step": 5, "kind": "train", "contrastive": 2.0}\n'
        '{"step": 5, "kind": "held_out", "recall_at_1": 0.2}\n{"step": 10, "kind": "held_out", "recall_at'
    )
    assert read_curve(str(file), "recall_at_1") == [{"step": 5, "metric": 0.2}]


def test_a_listed_trial_passes_through_tune_as_it_is():
    trial = Trial({"a": [1, {"grid_search": [1]}], "b": None}, 3)
    assert read_spelled(spelled(trial)) == trial


def test_what_optuna_suggests_becomes_a_trial_with_the_seed_of_its_repeat():
    space = SweepSpace(
        keys={"a.b": {"choice": [["x"], None]}, "c": {"uniform": [0.0, 1.0]}, "seed": {"grid": [5, 9]}},
        metric="m", search={"kind": "tpe", "trials": 3},
    )  # fmt: skip
    found = trial_of({"a.b": '["x"]', "c": 0.25, "__trial_index__": 1}, space)
    assert found == Trial({"a.b": ["x"], "c": 0.25}, 9)
