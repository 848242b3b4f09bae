from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raysem.evaluation.class_confusions import ClassConfusions
from raysem.evaluation.classification import (
    ClassificationSettings,
    classification_differences,
    classification_result,
)
from raysem.evaluation.confused_clips import confused_clips
from raysem.evaluation.scored_folds import ScoredFold, pooled_folds
from raysem.metrics.bootstrap import bootstrap_interval, paired_difference_interval

LABELS = ["dog", "rain", "sea_waves"]
SETTINGS = ClassificationSettings(num_resamples=200)


def fold(number: int, targets: list[int], called: list[int], *, sure: float = 0.8, num_unscored: int = 0) -> ScoredFold:
    """Clips `<number>-<row>` whose class `called` has the probability `sure`, the others sharing the rest."""
    scores_AK = np.full((len(called), 3), (1 - sure) / 2)
    scores_AK[np.arange(len(called)), called] = sure
    return ScoredFold([f"{number}-{row}" for row in range(len(called))], np.array(targets), scores_AK, num_unscored)


# Fold 1: 3 of 4 right, fold 2: 1 of 2.
FOLDS = {2: fold(2, [0, 2], [0, 1], num_unscored=3), 1: fold(1, [0, 1, 2, 2], [0, 1, 2, 1])}


def drawn(seed: int, quality: float, numbers: tuple[int, ...] = (1, 2, 3)) -> dict[int, ScoredFold]:
    """40 clips a fold, the same for every seed but for their scores."""
    generator = np.random.default_rng(seed)
    found = {}
    for number in numbers:
        target_A = np.random.default_rng(number).integers(3, size=40)
        scores_AK = np.exp(generator.normal(size=(40, 3)) + quality * np.eye(3)[target_A])
        scores_AK /= scores_AK.sum(axis=1, keepdims=True)
        found[number] = ScoredFold([f"{number}-{row}" for row in range(40)], target_A, scores_AK)
    return found


def test_a_hand_worked_case_with_everything_that_goes_into_the_summary():
    content = json.loads(json.dumps(classification_result(FOLDS, LABELS, settings=SETTINGS).to_json(), allow_nan=False))
    assert content["mean"] == 0.625
    assert content["sd"] == pytest.approx(0.25 / 2**0.5)  # of 0.75 and 0.5, n - 1
    assert [(one["fold"], one["accuracy"], one["num_clips"], one["num_unscored"]) for one in content["by_fold"]] == [
        (1, 0.75, 4, 0),
        (2, 0.5, 2, 3),
    ]
    pooled = content["pooled"]
    assert (pooled["accuracy"], pooled["num_clips"], pooled["num_unscored"]) == (4 / 6, 6, 3)
    assert pooled["per_class"]["sea_waves"] == {"accuracy": pytest.approx(1 / 3), "num_clips": 3}
    assert pooled["confusion"] == {"labels": LABELS, "counts": [[2, 0, 0], [0, 1, 0], [0, 2, 1]]}
    assert pooled["most_confused"] == [
        {"label": "sea_waves", "predicted": "rain", "num_clips": 2, "share": pytest.approx(2 / 3)}
    ]
    assert (content["interval_level"], content["num_resamples"]) == (0.95, 200)


def test_intervals_are_those_of_the_clips_of_each_fold_and_of_all_clips():
    folds = drawn(0, 1.0)
    result = classification_result(folds, LABELS, settings=SETTINGS, seed=5)
    bounds = {"seed": 5, "num_resamples": 200, "level": 0.95}
    assert result.interval == bootstrap_interval(result.correct_A, **bounds)
    for at, one in enumerate(result.folds):
        assert one.interval == bootstrap_interval(result.correct_A[40 * at : 40 * at + 40], **bounds)
    assert result.interval.low < result.accuracy < result.interval.high


def test_folds_of_one_size_have_the_pooled_accuracy_as_their_mean_and_others_need_not():
    equal = classification_result(drawn(0, 1.0), LABELS, settings=SETTINGS)
    assert equal.mean == pytest.approx(equal.accuracy)
    other = classification_result(FOLDS, LABELS, settings=SETTINGS)
    assert (other.mean, other.accuracy) == (0.625, 4 / 6)


def test_a_single_fold_has_no_deviation():
    result = classification_result({4: FOLDS[1]}, LABELS, settings=SETTINGS)
    assert result.deviation is None
    assert result.to_json()["sd"] is None
    assert result.mean == result.accuracy == 0.75


def test_neither_the_order_of_folds_nor_of_clips_changes_a_count():
    folds = drawn(0, 1.0)
    order = np.random.default_rng(1).permutation(40)
    shuffled = {
        number: ScoredFold([one.clip_ids[row] for row in order], one.target_A[order], one.scores_AK[order])
        for number, one in reversed(folds.items())
    }
    first, second = (classification_result(one, LABELS, settings=SETTINGS).to_json() for one in (folds, shuffled))
    for name in ("mean", "sd"):
        assert first[name] == pytest.approx(second[name])
    for name in ("accuracy", "per_class", "confusion", "most_confused"):
        assert first["pooled"][name] == second["pooled"][name]


def test_classes_that_tie_share_their_clip():
    tied = replace(fold(1, [0, 1], [0, 1]), scores_AK=np.full((2, 3), 1 / 3))
    result = classification_result({1: tied}, LABELS, settings=SETTINGS)
    assert result.accuracy == pytest.approx(1 / 3)
    np.testing.assert_allclose(result.confusions.counts_KK[0], 1 / 3)


def test_a_class_without_clips_has_no_accuracy():
    content = ClassConfusions.of(np.eye(3)[:2], np.array([0, 1]), LABELS, count=5).to_json()
    assert content["per_class"]["sea_waves"] == {"accuracy": None, "num_clips": 0}
    assert content["most_confused"] == []


def test_differences_are_paired_clip_by_clip_whatever_the_order_of_the_clips():
    baseline, model = drawn(0, 0.5), drawn(1, 2.0)
    rows = classification_differences({"linear": baseline, "cscm": model}, ["linear"], settings=SETTINGS, seed=3)
    assert [(row.student, row.baseline, row.metric, row.num_clips, row.num_seeds) for row in rows] == [
        ("cscm", "linear", "accuracy", 120, 1)
    ]
    # The slow twin: one clip after the other, in the order of fold and clip_id.
    values = []
    for folds in (model, baseline):
        clips = [
            (number, clip_id, float(scores_K.argmax() == target))
            for number, one in folds.items()
            for clip_id, target, scores_K in zip(one.clip_ids, one.target_A, one.scores_AK, strict=True)
        ]
        values.append(np.array([right for _, _, right in sorted(clips)]))
    assert rows[0].interval == paired_difference_interval(*values, seed=3, num_resamples=200, level=0.95)

    order = np.random.default_rng(1).permutation(40)
    shuffled = {
        number: ScoredFold([one.clip_ids[row] for row in order], one.target_A[order], one.scores_AK[order])
        for number, one in model.items()
    }
    again = classification_differences({"linear": baseline, "cscm": shuffled}, ["linear"], settings=SETTINGS, seed=3)
    assert again == rows


def test_a_baseline_is_compared_with_those_before_it_only():
    models = {name: drawn(seed, 1.0) for seed, name in enumerate(("linear", "mean", "cscm"))}
    rows = classification_differences(models, ["linear", "mean"], settings=SETTINGS)
    assert [(row.student, row.baseline) for row in rows] == [("mean", "linear"), ("cscm", "linear"), ("cscm", "mean")]
    assert {row.to_json()["set"] for row in rows} == {"all folds"}


def test_the_clips_of_a_confused_pair_are_told_with_both_probabilities_the_surest_first():
    scores_AK = np.array([[0.3, 0.5, 0.2], [0.0, 0.9, 0.1], [0.6, 0.4, 0.0], [0.45, 0.45, 0.1], [0.1, 0.1, 0.8]])
    folds = {
        2: ScoredFold(["b", "a", "right", "tied"], np.array([0, 0, 0, 0]), scores_AK[:4]),
        3: ScoredFold(["other"], np.array([1]), scores_AK[4:]),
    }
    first, second = confused_clips(folds, LABELS, num_pairs=5, clips_per_pair=3)
    assert (first.confusion.label, first.confusion.predicted, first.confusion.num_clips) == ("dog", "rain", 2.5)
    assert [(clip.clip_id, clip.fold) for clip in first.clips] == [("a", 2), ("b", 2), ("tied", 2)]
    assert [(clip.label_probability, clip.predicted_probability) for clip in first.clips] == [
        (0.0, 0.9),
        (0.3, 0.5),
        (0.45, 0.45),
    ]
    assert [clip.clip_id for clip in second.clips] == ["other"]
    (only,) = confused_clips(folds, LABELS, num_pairs=1, clips_per_pair=1)
    assert [clip.clip_id for clip in only.clips] == ["a"]


def test_the_confused_pairs_are_those_of_the_result():
    folds = drawn(0, 1.0)
    pairs = confused_clips(folds, LABELS, num_pairs=10, clips_per_pair=100)
    assert [pair.confusion for pair in pairs] == classification_result(
        folds, LABELS, settings=SETTINGS
    ).confusions.most_confused
    assert all(len(pair.clips) == pair.confusion.num_clips for pair in pairs)  # no score ties


def test_scores_of_half_precision_are_probabilities():
    folds = {number: replace(one, scores_AK=one.scores_AK.astype(np.float16)) for number, one in drawn(0, 1.0).items()}
    assert len(pooled_folds(folds).clip_ids) == 120


def changed(**changes: Any) -> dict[int, ScoredFold]:
    return FOLDS | {1: replace(FOLDS[1], **changes)}


def with_score(value: float) -> np.ndarray:
    scores_AK = FOLDS[1].scores_AK.copy()
    scores_AK[2, 0] = value
    return scores_AK


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({}, "no fold was scored"),
        (changed(clip_ids=[], num_unscored=4), "fold 1: no clip was scored (4 gave no scores)"),
        (changed(clip_ids=["a"]), "fold 1: scores must be (1 clips, classes), got shape (4, 3)"),
        (changed(scores_AK=np.zeros(4)), "fold 1: scores must be (4 clips, classes), got shape (4,)"),
        (changed(target_A=np.array([0, 1, 2])), "fold 1: targets must be one class per clip (4), got shape (3,)"),
        (changed(target_A=np.array([0, 1, 2, 3])), "fold 1: targets go from 0 to 3, there are 3 classes"),
        (changed(target_A=np.array([0.0, 1, 2, 2])), "fold 1: targets must be class indices, got float64"),
        (changed(scores_AK=with_score(np.nan)), "fold 1: scores hold 1 NaN"),
        (changed(scores_AK=with_score(np.inf)), "fold 1: scores must be probabilities: 1 rows"),
        (changed(scores_AK=with_score(3.0)), "do not sum to 1, the first is clip '1-2'"),
        (changed(scores_AK=np.array([[2.0, -1, 0]] * 4)), "scores must be probabilities: 4 rows"),
        (changed(num_unscored=-1), "fold 1: num_unscored is a count, got -1"),
        (changed(clip_ids=["2-0", "x", "y", "2-1"]), "2 clips are tested twice, the first is '2-0'"),
        (changed(scores_AK=np.full((4, 4), 0.25)), "the folds have scores of [3, 4] classes"),
    ],
)
def test_folds_that_do_not_fit_are_refused_with_what_was_found(folds: dict[int, ScoredFold], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        classification_result(folds, LABELS, settings=SETTINGS)


def test_labels_must_be_as_many_as_the_scores_and_none_twice():
    with pytest.raises(ValueError, match="one score for each of 2 labels, got 3"):
        classification_result(FOLDS, LABELS[:2], settings=SETTINGS)
    for refuses in (
        lambda labels: classification_result(FOLDS, labels, settings=SETTINGS),
        lambda labels: confused_clips(FOLDS, labels, num_pairs=1, clips_per_pair=1),
    ):
        with pytest.raises(ValueError, match=r"listed twice: .'dog'."):
            refuses(["dog", "dog", "rain"])


def test_models_on_other_clips_or_with_other_labels_are_not_compared():
    def compared(other: dict[int, ScoredFold]) -> None:
        classification_differences({"linear": FOLDS, "cscm": other}, ["linear"], settings=SETTINGS)

    with pytest.raises(
        ValueError, match=r"cscm and linear were not scored on the same clips: 2 differ.*'2-0' of fold 2"
    ):
        compared({1: FOLDS[1]})
    with pytest.raises(ValueError, match="not scored on the same clips: 12 differ"):
        compared({1: fold(7, [0, 2], [0, 1]), 2: fold(8, [0, 1, 2, 2], [0, 1, 2, 1])})
    with pytest.raises(ValueError, match="other labels of the same clips: the first is '1-0'"):
        compared(changed(target_A=np.array([1, 1, 2, 2])))
    with pytest.raises(ValueError, match="cscm: fold 1: scores hold 1 NaN"):
        compared(changed(scores_AK=with_score(np.nan)))
    with pytest.raises(ValueError, match=r"no baseline .'teacher'."):
        classification_differences({"linear": FOLDS}, ["teacher"], settings=SETTINGS)
    with pytest.raises(ValueError, match="no models"):
        classification_differences({}, [], settings=SETTINGS)
