from __future__ import annotations

import numpy as np
import pytest

from raysem.evaluation.wrong_tags import top_tags, wrong_tags
from raysem.metrics.ontology_distance import false_positive_distance

LINE = np.abs(np.arange(7)[:, None] - np.arange(7)[None])
NAMES = [f"class {index}" for index in range(7)]


def scored(seed: int = 0, num_clips: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, labels with clips that have none."""
    generator = np.random.default_rng(seed)
    targets = (generator.random((num_clips, 7)) < 0.3).astype(np.uint8)
    return np.round(generator.random(targets.shape), 1), targets


def slow(scores: np.ndarray, targets: np.ndarray) -> list[tuple[int, int, int, dict[int, float]]]:
    """(clip, wrong class, distance, share of each nearest label), by loops."""
    found = []
    for clip in range(len(scores)):
        labels = np.flatnonzero(targets[clip]).tolist()
        for tag in sorted(range(7), key=lambda k: (-scores[clip, k], k))[: len(labels)]:
            if tag not in labels:
                distance = min(abs(tag - label) for label in labels)
                near = [label for label in labels if abs(tag - label) == distance]
                found.append((clip, tag, distance, {label: 1 / len(near) for label in near}))
    return found


def test_it_agrees_with_its_loop():
    scores, targets = scored()
    assert (targets.sum(axis=1) == 0).any()
    tags, expected = wrong_tags(scores, targets, LINE), slow(scores, targets)
    assert any(len(shares) > 1 for *_, shares in expected)
    found = list(zip(tags.clip_P.tolist(), tags.class_P.tolist(), tags.distance_P.tolist(), strict=True))
    assert found == [one[:3] for one in expected]
    shares: list[dict[int, float]] = [{} for _ in expected]
    for tag, label, share in zip(tags.tag_Q, tags.label_Q, tags.shares, strict=True):
        shares[tag][int(label)] = share
    assert shares == [one[3] for one in expected]


def test_the_mean_is_the_metrics_own_and_the_counts_add_up_to_it():
    for seed in range(5):
        scores, targets = scored(seed)
        tags = wrong_tags(scores, targets, LINE)
        assert tags.mean_distance == pytest.approx(false_positive_distance(scores, targets, LINE), abs=1e-12)
        assert len(tags.by_distance) == 7
        assert tags.by_distance @ np.arange(7) / tags.by_distance.sum() == pytest.approx(tags.mean_distance)


def test_no_monotone_change_of_a_clips_scores_changes_its_tags():
    scores, targets = scored()
    changed = wrong_tags(np.exp(3 * scores) * np.linspace(1, 9, 60)[:, None] - 4, targets, LINE)
    tags = wrong_tags(scores, targets, LINE)
    np.testing.assert_array_equal(changed.class_P, tags.class_P)
    np.testing.assert_array_equal(changed.clip_P, tags.clip_P)


def test_right_tags_are_no_mistakes():
    _, targets = scored()
    tags = wrong_tags(targets.astype(float), targets, LINE)
    assert len(tags.clip_P) == 0
    assert np.isnan(tags.mean_distance)
    assert tags.by_distance.tolist() == [0] * 7


def test_scores_that_are_nan_are_refused():
    scores, targets = scored()
    scores[3, 2] = np.nan
    with pytest.raises(ValueError, match="1 NaN in 1 clips, the first is clip 3"):
        wrong_tags(scores, targets, LINE)


def test_the_best_tags_of_a_clip_are_told_with_the_label_nearest_to_them():
    scores, has = np.array([0.1, 0.9, 0.2, 0.0, 0.9, 0.3, 0.0]), np.array([1, 0, 0, 0, 1, 0, 0])
    found = [(tag.name, tag.score, tag.distance, tag.nearest) for tag in top_tags(scores, has, LINE, NAMES, count=3)]
    assert found == [
        ("class 1", 0.9, 1, "class 0"),
        ("class 4", 0.9, 0, "class 4"),
        ("class 5", 0.3, 1, "class 4"),
    ]


def test_tags_of_a_clip_without_labels_have_no_distance():
    (tag,) = top_tags(np.arange(7), np.zeros(7), LINE, NAMES, count=1)
    assert (tag.name, tag.distance, tag.nearest) == ("class 6", None, None)
    with pytest.raises(ValueError, match="for each of 7 classes, got 6 and 7"):
        top_tags(np.arange(6), np.zeros(7), LINE, NAMES, count=1)
