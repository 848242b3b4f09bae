from __future__ import annotations

import json

import numpy as np
import pytest

from raysem.evaluation.differences import paired_differences


def test_each_model_is_compared_with_teacher_and_control_and_the_control_with_the_teacher():
    generator = np.random.default_rng(0)
    correct = {name: generator.integers(0, 2, (3, 40)).astype(float) for name in ("DU", "teacher", "control", "ADS")}
    rows = paired_differences(correct, ["teacher", "control"], set_name="esc50")
    assert [(row.student, row.baseline) for row in rows] == [
        ("DU", "teacher"),
        ("DU", "control"),
        ("control", "teacher"),
        ("ADS", "teacher"),
        ("ADS", "control"),
    ]
    content = json.loads(json.dumps(rows[0].to_json()))
    assert content["difference"] == pytest.approx(correct["DU"].mean() - correct["teacher"].mean())
    assert (content["set"], content["metric"], content["num_clips"], content["num_seeds"]) == (
        "esc50",
        "accuracy",
        40,
        3,
    )
    assert content["interval"][0] < content["difference"] < content["interval"][1]


def test_models_of_different_clips_are_refused_by_name():
    with pytest.raises(ValueError, match=r"esc50: DU against teacher: .*model has 3, baseline 4"):
        paired_differences({"teacher": np.ones(4), "DU": np.ones(3)}, ["teacher"], set_name="esc50")
    with pytest.raises(ValueError, match=r"no baseline \['control'\]; there are \['teacher'\]"):
        paired_differences({"teacher": np.ones(4)}, ["control"], set_name="esc50")
