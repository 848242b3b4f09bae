from __future__ import annotations

import json

import numpy as np
import pytest

from raysem.evaluation.tag_confusions import moved_confusions
from raysem.metrics.ontology_distance import false_positive_distance

LINE = np.abs(np.arange(7)[:, None] - np.arange(7)[None])
NAMES = [f"class {index}" for index in range(7)]


def tagged(*tags: int) -> np.ndarray:
    """One clip a row, its one tag at the top."""
    return np.eye(7)[list(tags)]


def random_scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((150, 7))


@pytest.fixture
def targets() -> np.ndarray:
    return (np.random.default_rng(9).random((150, 7)) < 0.3).astype(np.uint8)


def test_a_hand_worked_case():
    #                    class 0           class 6     right before  right after
    targets = tagged(0, 0, 0, 6, 6, 3, 3)
    before = tagged(5, 5, 4, 5, 5, 3, 2)
    after = tagged(1, 1, 4, 2, 5, 5, 3)
    found = moved_confusions(before, after, targets, LINE, NAMES, count=5)
    assert [move.name for move in found.closer] == ["class 0"]
    assert [move.name for move in found.farther] == ["class 6", "class 3"]  # 1.5 * 2 wrong tags before 1 * 1
    (closer,) = found.closer
    assert (closer.before, closer.after) == (pytest.approx(14 / 3), 2)
    assert (closer.num_before, closer.num_after) == (3, 3)
    assert [(c.name, c.distance, c.count) for c in closer.called_before] == [("class 5", 5, 2), ("class 4", 4, 1)]
    assert [(c.name, c.distance, c.count) for c in closer.called_after] == [("class 1", 1, 2), ("class 4", 4, 1)]
    (example,) = closer.examples
    assert (example.before, example.before_distance, example.after, example.after_distance) == (
        "class 5",
        5,
        "class 1",
        1,
    )
    assert (example.num_clips, example.clip) == (2, 0)
    (example,) = found.farther[0].examples
    assert (example.before, example.after, example.clip) == ("class 5", "class 2", 3)
    assert found.num_clips == (2, 2, 1)
    assert (found.num_before, found.num_after) == (6, 6)
    assert (found.before, found.after) == (pytest.approx(17 / 6), pytest.approx(13 / 6))
    assert found.per_class[3].before == 1
    assert found.per_class[3].after == 2
    assert found.per_class[1].before is None


def test_a_mistake_is_about_the_label_that_it_is_nearest_to():
    targets = np.array([[1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 1]])
    before = np.array([[9, 0, 0, 0, 0, 8, 0], [9, 0, 0, 8, 0, 0, 0]])  # 5 is one from 6; 3 lies between 0 and 6
    after = np.array([[9, 8, 0, 0, 0, 0, 0], [9, 8, 0, 0, 0, 0, 0]])
    found = moved_confusions(before, after, targets, LINE, NAMES, count=5)
    assert (found.per_class[6].num_before, found.per_class[0].num_before) == (1.5, 0.5)
    assert (found.per_class[6].before, found.per_class[0].before) == (pytest.approx((1 + 0.5 * 3) / 1.5), 3)
    assert (found.per_class[6].num_after, found.per_class[0].num_after) == (0, 2)
    assert found.per_class[6].after is None
    assert [move.name for move in found.closer] == ["class 0"]
    assert [c.count for c in found.closer[0].called_before] == [0.5]


def test_the_classes_add_up_to_the_metric_of_each_model(targets: np.ndarray):
    scores = random_scores(0), random_scores(1)
    found = moved_confusions(*scores, targets, LINE, NAMES, count=7)
    for given, mean, number, side in (
        (scores[0], found.before, found.num_before, "before"),
        (scores[1], found.after, found.num_after, "after"),
    ):
        rows = [(getattr(row, side), getattr(row, f"num_{side}")) for row in found.per_class]
        assert sum(count for _, count in rows) == pytest.approx(number)
        assert sum(distance * count for distance, count in rows) / number == pytest.approx(mean)
        assert mean == pytest.approx(false_positive_distance(given, targets, LINE))


def test_the_other_way_round_closer_is_farther(targets: np.ndarray):
    one, other = random_scores(0), random_scores(1)
    there = moved_confusions(one, other, targets, LINE, NAMES, count=7)
    back = moved_confusions(other, one, targets, LINE, NAMES, count=7)
    assert there.closer
    assert {move.name for move in there.closer} == {move.name for move in back.farther}
    assert there.num_clips == back.num_clips[::-1]
    assert there.change is not None
    assert back.change is not None
    assert (there.change.estimate, there.change.low) == pytest.approx((-back.change.estimate, -back.change.high))


def test_a_model_against_itself_moves_nothing(targets: np.ndarray):
    scores = random_scores(0)
    found = moved_confusions(scores, scores, targets, LINE, NAMES, count=7)
    assert (found.closer, found.farther) == ((), ())
    assert found.change is not None
    assert (found.change.low, found.change.high) == (0, 0)
    assert found.num_clips[0] == found.num_clips[2] == 0


def test_neither_the_order_of_clips_nor_the_scale_of_scores_matters(targets: np.ndarray):
    one, other = random_scores(0), random_scores(1)
    order = np.random.default_rng(2).permutation(150)
    first = moved_confusions(one, other, targets, LINE, NAMES, count=7).to_json()
    second = moved_confusions(np.exp(one[order]), 9 * other[order] - 4, targets[order], LINE, NAMES, count=7).to_json()
    for row, again in zip(first["per_class"], second["per_class"], strict=True):
        assert row["before"] == pytest.approx(again["before"])
        assert row["after"] == pytest.approx(again["after"])
    assert first["num_clips"] == second["num_clips"]


def test_the_interval_of_the_change_has_the_spread_of_other_clips():
    def drawn(seed: int, num_clips: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        targets = np.eye(7)[generator.integers(7, size=num_clips)]
        near = np.exp(-LINE[targets.argmax(axis=1)])
        return generator.random((num_clips, 7)), generator.random((num_clips, 7)) + near, targets

    found = moved_confusions(*drawn(0), LINE, NAMES, count=1, num_resamples=500).change
    assert found is not None
    others = []
    for seed in range(1, 80):
        one, other, targets = drawn(seed)
        others.append(false_positive_distance(other, targets, LINE) - false_positive_distance(one, targets, LINE))
    assert found.high < 0
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(others), rel=0.3)


def test_a_model_without_mistakes_has_no_distance_and_nothing_moved():
    targets = tagged(0, 1, 2)
    found = moved_confusions(tagged(1, 1, 2), targets, targets, LINE, NAMES, count=3, models=("one-hot", "SPA"))
    assert (found.before, found.after, found.change) == (1, None, None)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (content["models"], content["interval"], content["closer"]) == (["one-hot", "SPA"], None, [])


def test_the_list_is_as_long_as_asked_for(targets: np.ndarray):
    found = moved_confusions(
        random_scores(0), random_scores(1), targets, LINE, NAMES, count=1, num_examples=2, set_name="eval"
    )
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["set"] == "eval"
    assert len(content["closer"]) == len(content["farther"]) == 1
    assert len(content["closer"][0]["called_before"]) == 2
    assert len(content["per_class"]) == 7
    for move, sign in ((found.closer[0], -1), (found.farther[0], 1)):
        for example in move.examples:
            assert sign * (example.after_distance - example.before_distance) > 0
            assert targets[example.clip, NAMES.index(move.name)]


def test_wrong_input_is_refused_by_the_models_name(targets: np.ndarray):
    one = random_scores(0)
    with pytest.raises(ValueError, match="one name for each of 7 classes, got 6"):
        moved_confusions(one, one, targets, LINE, NAMES[:6], count=3)
    with pytest.raises(ValueError, match=r"SPA: scores and targets .*\(149, 7\)"):
        moved_confusions(one, one[1:], targets, LINE, NAMES, count=3, models=("one-hot", "SPA"))
    with pytest.raises(ValueError, match=r"level in \(0, 1\), got 1000 and 95"):
        moved_confusions(one, one, targets, LINE, NAMES, count=3, level=95)
