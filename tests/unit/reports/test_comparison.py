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


# Cross-validations


def folded(seed, baseline, cscm, *, tested=(1, 2), num_clips=4, **folds):
    def result(value):
        by_fold = [{"fold": fold, "accuracy": value, "num_clips": num_clips // len(tested)} for fold in tested]
        pooled = {"accuracy": value, "num_clips": num_clips}
        return {"classification": {"mean": value + 0.01, "by_fold": by_fold, "pooled": pooled}}

    row = {"student": "cscm", "baseline": "baseline", "set": "all folds", "metric": "accuracy"}
    return {
        "recipe": {"seed": seed, "folds": {"official": [1, 2], "drawn": 0, "test": [], **folds}},
        "evaluation": {"baseline": result(baseline), "cscm": result(cscm)},
        "differences": [row | {"difference": cscm - baseline, "interval": [0, 0]}],
    }


def folded_scores(baseline, cscm, ids=("a", "b", "c", "d")):
    return {"folds": ClipScores(ids, {"baseline": np.array(baseline), "cscm": np.array(cscm)})}


def test_cross_validations_have_pooled_accuracy_its_difference_and_the_mean_over_folds():
    text = compare([folded(0, 0.50, 0.60), folded(1, 0.60, 0.80)])
    head, baseline, cscm = cells(text)
    assert dict(zip(head, cscm, strict=True)) == {
        "model": "cscm",
        "runs": "2",
        "all folds, accuracy": "70.0 ± 14.1",
        "all folds, against baseline": "+15.0 ± 7.1",
        "mean over folds": "71.0 ± 14.1",
    }
    assert dict(zip(head, baseline, strict=True))["all folds, against baseline"] == "–"
    assert "All folds: folds 1, 2 of 2 official ones, each clip scored once" in text


def test_seeds_of_a_cross_validation_get_intervals_against_the_recipe_s_own_baseline():
    runs = [folded(0, 0.50, 0.75), folded(1, 0.50, 0.75)]
    scores = [
        folded_scores([1, 1, 0, 0], [1, 1, 1, 0]),
        folded_scores([0, 0, 1, 1], [0, 1, 1, 1], ids=("d", "c", "b", "a")),
    ]
    table = cells(compare(runs, scores))
    assert table[-3] == ["model", "all folds, accuracy", "each seed", "against baseline"]
    assert table[-2][0] == "baseline"
    assert table[-2][1].startswith("50.0 [")
    assert table[-2][2:] == ["50.0 50.0", "–"]
    assert table[-1][2] == "75.0 75.0"
    (expected,) = [
        row.differences["baseline"]
        for row in over_seeds("all folds", [one["folds"] for one in scores], baselines=["baseline"])
        if row.model == "cscm"
    ]
    low, high = (f"{100 * value:+.1f}" for value in (expected.low, expected.high))
    assert table[-1][3] == f"+25.0 [{low}, {high}]"


def test_a_single_classifier_has_an_interval_and_nothing_to_compare_with():
    runs = [folded(seed, 0.5, 0.5) for seed in (0, 1)]
    for run in runs:
        del run["evaluation"]["baseline"]
        run["differences"] = []
    scores = [{"folds": ClipScores("abcd", {"cscm": np.array([1, 0, 1, 0])})} for _ in runs]
    table = cells(compare(runs, scores))
    assert table[-2] == ["model", "all folds, accuracy", "each seed"]
    assert table[-1][2] == "50.0 50.0"


def test_a_classifier_that_is_called_control_is_no_baseline_for_its_name():
    def renamed(run):
        run["evaluation"]["control"] = run["evaluation"].pop("cscm")
        run["differences"][0]["student"] = "control"
        return run

    scores = {"folds": ClipScores("abcd", {"baseline": np.array([1, 0, 0, 0]), "control": np.array([1, 1, 0, 0])})}
    table = cells(compare([renamed(folded(seed, 0.25, 0.5)) for seed in (0, 1)], [scores, scores]))
    assert table[-3] == ["model", "all folds, accuracy", "each seed", "against baseline"]
    assert table[-1][0] == "control"
    assert table[-1][3].startswith("+25.0 [")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"tested": (1,), "test": [1]}, "run 3 tested fold 1 of 2 official ones, run 2 folds 1, 2 of 2 official ones"),
        ({"official": [], "drawn": 2}, "run 3 tested folds 1, 2 of 2 drawn ones, run 2 folds 1, 2 of 2 official ones"),
        ({"official": [1, 2, 3]}, "run 3 tested folds 1, 2 of 3 official ones, run 2 folds 1, 2 of 2 official ones"),
    ],
)
def test_runs_that_tested_other_folds_are_refused_though_they_are_other_experiments(other, words):
    """The first run is of another kind, and is passed over."""
    with pytest.raises(DataError) as error:
        compare([summary(0, 0.5, 0.6), folded(0, 0.5, 0.6), folded(0, 0.5, 0.6, **other)])
    assert str(error.value) == f"compare: {words}; they cannot be compared"


def test_runs_that_tested_other_clips_are_refused_though_they_are_other_experiments():
    runs = [folded(0, 0.5, 0.75), folded(0, 0.5, 0.75, held_out_share=0.1)]
    ours = folded_scores([1, 0, 0, 1], [1, 1, 0, 1])
    others = folded_scores([1, 0, 0, 1], [1, 1, 0, 1], ids="abce")
    with pytest.raises(DataError) as error:
        compare(runs, [ours, others])
    reason = "2 clips are in one of them only, the first is d"
    assert str(error.value) == f"compare: runs 1 and 2 were tested on other clips ({reason})"
    assert compare(runs, [ours, folded_scores([1, 0, 0, 1], [1, 1, 0, 1], ids="dcba")])


def test_runs_without_scores_of_clips_are_told_apart_by_their_number():
    runs = [folded(0, 0.5, 0.6), folded(1, 0.5, 0.6, num_clips=6)]
    with pytest.raises(DataError, match=r"^compare: runs 1 and 2 were tested on other clips \(6 clips and 4\)$"):
        compare(runs)
    with pytest.raises(DataError, match=r"\(6 clips and 4\)$"):
        compare(runs, [folded_scores([1, 0, 0, 1], [1, 1, 0, 1]), {}])


def test_folds_drawn_with_another_seed_are_compared_where_all_of_them_were_tested():
    drawn = {"official": [], "drawn": 2}
    scores = [folded_scores([1, 0, 0, 1], [1, 1, 0, 1]), folded_scores([1, 0, 0, 1], [1, 1, 0, 1], ids="dcba")]
    text = compare([folded(seed, 0.5, 0.75, **drawn) for seed in (0, 1)], scores)
    assert "All folds: folds 1, 2 of 2 drawn ones" in text
    assert "drawn again" in text


def test_a_cross_validation_beside_another_job_leaves_cells_empty():
    head, *rows = cells(compare([summary(0, 0.5, 0.6), folded(0, 0.5, 0.6)]))
    found = {row[1]: dict(zip(head, row, strict=True)) for row in rows}
    assert (found["DU"]["esc50, accuracy"], found["DU"]["all folds, accuracy"]) == ("60.0", "–")
    assert (found["cscm"]["esc50, accuracy"], found["cscm"]["all folds, accuracy"]) == ("–", "60.0")
