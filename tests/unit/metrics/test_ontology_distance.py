from __future__ import annotations

import numpy as np
import pytest

from raysem.metrics import ontology_distance
from raysem.metrics.ontology_distance import checked_distances, false_positive_distance, nearest_label_distance

LINE = np.abs(np.arange(5)[:, None] - np.arange(5)[None])


def test_each_class_is_as_far_as_its_nearest_label():
    has = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=bool)
    assert nearest_label_distance(has, LINE).tolist() == [[0, 1, 2, 3, 4], [1, 0, 1, 1, 0], [4, 4, 4, 4, 4]]


@pytest.mark.parametrize("labels_at_once", [1, 7, 1000])
def test_it_agrees_with_its_loop_whatever_is_looked_at_together(monkeypatch: pytest.MonkeyPatch, labels_at_once: int):
    monkeypatch.setattr(ontology_distance, "_LABELS_AT_ONCE", labels_at_once)
    has = np.random.default_rng(0).random((30, 5)) < 0.2
    slow = [[min((LINE[t, c] for t in np.flatnonzero(row)), default=4) for c in range(5)] for row in has]
    np.testing.assert_array_equal(nearest_label_distance(has, LINE), slow)


def test_mistakes_nearer_to_the_labels_have_a_smaller_distance():
    targets = np.array([[1, 0, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    near = np.array([[0, 9, 0, 0, 0], [9, 8, 0, 1, 0], [9, 0, 0, 0, 0]])
    far = np.array([[0, 0, 0, 0, 9], [9, 0, 8, 1, 0], [9, 0, 0, 0, 0]])
    assert false_positive_distance(near, targets, LINE) == 1
    assert false_positive_distance(far, targets, LINE) == (4 + 1) / 2
    assert np.isnan(false_positive_distance(targets, targets, LINE))


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (np.zeros((3, 3)), r"must be \(5, 5\)"),
        (LINE / 2, "whole numbers"),
        (-LINE, "whole numbers"),
        (np.where(LINE > 3, np.inf, LINE), "whole numbers"),
        (LINE + 1, "0 from a class to itself"),
        (np.triu(LINE), "symmetric"),
    ],
)
def test_distances_that_are_none_are_refused(distances: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        checked_distances(distances, 5)


def test_scores_of_the_wrong_shape_and_nan_are_refused():
    with pytest.raises(ValueError, match="alike, got"):
        false_positive_distance(np.ones((2, 5)), np.ones((3, 5)), LINE)
    with pytest.raises(ValueError, match="1 NaN"):
        false_positive_distance(np.array([[np.nan, 0, 0, 0, 0]]), np.ones((1, 5)), LINE)
