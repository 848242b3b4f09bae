from __future__ import annotations

import numpy as np
import pytest

from raysem.errors import DataError
from raysem.reports.comparison import compare
from raysem.reports.seed_intervals import ClipScores, over_seeds


def summary(seed, teacher, student, threshold=0.6):
    return {
        "recipe": {"seed": seed, "curation": {"similarity_threshold": threshold}},
        "evaluation": {
            "teacher": {"zero_shot": {"esc50": {"accuracy": teacher}}},
            "DU": {
                "zero_shot": {"esc50": {"accuracy": student}},
                "retrieval": {"clotho": {"text_to_audio": {"R@1": 0.1, "R@10": 0.4, "mAP@10": 0.2}}},
            },
        },
        "differences": [
            {
                "student": "DU",
                "baseline": "teacher",
                "set": "esc50",
                "difference": student - teacher,
                "interval": [0, 0],
            }
        ],
    }


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_runs_that_differ_by_seed_are_one_row_with_mean_and_standard_deviation():
    table = cells(compare([summary(0, 0.50, 0.52), summary(1, 0.51, 0.55), summary(2, 0.52, 0.58)]))
    assert table[0][:4] == ["model", "runs", "esc50, accuracy", "esc50, against teacher"]
    assert table[1][:4] == ["teacher", "3", "51.0 ± 1.0", "–"]
    assert table[2] == ["DU", "3", "55.0 ± 3.0", "+4.0 ± 2.0", "10.0 ± 0.0", "40.0 ± 0.0", "20.0 ± 0.0"]


def test_another_setting_is_another_experiment_and_the_legend_says_which():
    text = compare([summary(0, 0.5, 0.5), summary(0, 0.5, 0.6, threshold=0.7), summary(1, 0.5, 0.7, threshold=0.7)])
    assert [row[:4] for row in cells(text)[1:]] == [
        ["A", "teacher", "1", "50.0"],
        ["A", "DU", "1", "50.0"],
        ["B", "teacher", "2", "50.0 ± 0.0"],
        ["B", "DU", "2", "65.0 ± 7.1"],
    ]
    assert "- B: 2 runs; from A on curation.similarity_threshold: 0.6 -> 0.7" in text


def test_every_line_of_the_table_has_the_same_width_and_a_bar_in_a_name_is_escaped():
    one = summary(0, 0.5, 0.6)
    one["evaluation"]["a|b"] = one["evaluation"]["DU"]
    lines = [line for line in compare([one]).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert any("a\\|b" in line for line in lines)


def test_a_model_that_some_runs_lack_is_counted_as_such():
    lacking = summary(1, 0.5, 0.6)
    del lacking["evaluation"]["DU"]["zero_shot"]
    assert "60.0 (of 1)" in compare([summary(0, 0.5, 0.6), lacking])


def test_a_run_without_evaluation_is_refused():
    with pytest.raises(DataError, match="summary 2 has no evaluation"):
        compare([summary(0, 0.5, 0.5), {"recipe": {}}])
    with pytest.raises(DataError, match="no summary"):
        compare([])


def clip_scores(teacher, student, ids=("a", "b", "c", "d")):
    return {"esc50": ClipScores(ids, {"teacher": np.array(teacher), "DU": np.array(student)})}


def test_runs_that_differ_by_seed_get_intervals_over_clips_and_seeds():
    runs = [summary(0, 0.50, 0.75), summary(1, 0.50, 0.75)]
    scores = [clip_scores([1, 1, 0, 0], [1, 1, 1, 0]), clip_scores([1, 1, 0, 0], [1, 1, 1, 0])]
    table = cells(compare(runs, scores))
    assert table[-3] == ["model", "esc50, accuracy", "each seed", "against teacher"]
    assert table[-2][2:] == ["50.0 50.0", "–"]
    assert table[-1][2] == "75.0 75.0"
    assert table[-1][3].startswith("+25.0 [+0.0, +")


def test_the_order_of_the_clips_may_differ_between_runs():
    turned = clip_scores([0, 0, 1, 1], [0, 1, 1, 1], ids=("d", "c", "b", "a"))["esc50"]
    straight = clip_scores([1, 1, 0, 0], [1, 1, 1, 0])["esc50"]
    both = over_seeds("esc50", [straight, turned], baselines=["teacher", "control"])
    alike = over_seeds("esc50", [straight, straight], baselines=["teacher", "control"])
    assert both == alike
    assert list(both[0].differences) == ["teacher"]


def test_runs_scored_on_other_clips_are_not_joined():
    runs = [summary(0, 0.50, 0.75), summary(1, 0.50, 0.75)]
    with pytest.raises(DataError, match="other clips of esc50"):
        compare(runs, [clip_scores([1, 0, 0, 1], [1, 1, 0, 0]), clip_scores([1, 0, 0, 1], [1, 1, 0, 0], ids="abce")])


def test_one_run_alone_has_no_interval_over_seeds():
    assert "drawn again" not in compare([summary(0, 0.5, 0.6)], [clip_scores([1, 0, 0, 1], [1, 1, 0, 0])])


def tagging_summary(seed: int, one_hot: float, spa: float):
    def result(value: float):
        return {"tagging": {"eval": {"OmAP": value, "mAP": value / 2, "accuracy": None, "random_floor": {"OmAP": 0.3}}}}

    def difference(metric: str, value: float):
        return {"student": "SPA", "baseline": "one-hot", "set": "eval", "metric": metric, "difference": value}

    return {
        "recipe": {"seed": seed},
        "evaluation": {"one-hot": result(one_hot), "SPA": result(spa)},
        "differences": [difference("OmAP", spa - one_hot), difference("mAP", (spa - one_hot) / 2)],
    }


def test_taggers_have_omap_with_its_floor_map_and_each_metric_s_difference():
    head, one_hot, spa = cells(compare([tagging_summary(0, 0.5, 0.52), tagging_summary(1, 0.6, 0.66)]))
    row = dict(zip(head, spa, strict=True))
    assert row == {
        "model": "SPA",
        "runs": "2",
        "eval, OmAP": "59.0 ± 9.9",
        "eval, mAP": "29.5 ± 4.9",
        "eval, accuracy": "–",
        "eval, OmAP of random scores": "30.0 ± 0.0",
        "eval, OmAP, against one-hot": "+4.0 ± 2.8",
        "eval, mAP, against one-hot": "+2.0 ± 1.4",
    }
    assert dict(zip(head, one_hot, strict=True))["eval, OmAP, against one-hot"] == "–"
