from __future__ import annotations

import numpy as np
import pytest

from raysem.metrics.accuracy import confusion_matrix, most_confused, per_class_accuracy, top1_correct, top1_shares


def test_accuracy_of_a_hand_worked_case():
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    target = np.array([0, 1, 1, 2])
    assert top1_correct(scores, target).tolist() == [1, 1, 0, 1]
    confusion = confusion_matrix(scores, target)
    assert confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert per_class_accuracy(confusion).tolist() == [1, 0.5, 1]


def test_a_model_that_scores_every_class_alike_is_at_chance_whatever_the_classes():
    target = np.array([0, 0, 0, 1, 2])
    assert top1_correct(np.ones((5, 4)), target).tolist() == [0.25] * 5


def test_the_trace_of_the_confusion_is_the_accuracy_with_and_without_ties():
    generator = np.random.default_rng(0)
    scores, target = generator.integers(0, 4, size=(200, 6)), generator.integers(0, 6, size=200)
    confusion = confusion_matrix(scores, target)
    assert np.trace(confusion) == pytest.approx(top1_correct(scores, target).sum())
    np.testing.assert_allclose(confusion.sum(axis=1), np.bincount(target, minlength=6))


def test_accuracy_does_not_depend_on_the_order_of_classes_or_on_the_scale_of_scores():
    generator = np.random.default_rng(1)
    scores, target = generator.integers(0, 3, size=(50, 5)).astype(float), generator.integers(0, 5, size=50)
    order = generator.permutation(5)
    renamed = np.argsort(order)[target]
    np.testing.assert_allclose(top1_correct(scores[:, order] * 7, renamed), top1_correct(scores, target))


def test_a_class_without_clips_has_no_accuracy():
    confusion = confusion_matrix(np.eye(3)[[0, 1]], np.array([0, 1]))
    assert np.isnan(per_class_accuracy(confusion)).tolist() == [False, False, True]


def test_most_confused_lists_the_largest_errors_first_and_no_empty_cell():
    confusion = np.array([[5, 3, 0], [1, 9, 0], [3, 0, 1]], dtype=float)
    found = most_confused(confusion, ["rain", "sea", "wind"], count=10)
    assert [(c.label, c.predicted, c.num_clips) for c in found] == [
        ("rain", "sea", 3),
        ("wind", "rain", 3),
        ("sea", "rain", 1),
    ]
    assert found[1].share == 0.75


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (np.array([[np.nan, 1.0]]), [0], "1 NaN"),
        (np.ones(3), [0], "must be .clips, classes."),
        (np.ones((2, 3)), [0], "one class per clip"),
        (np.ones((2, 3)), [0, 3], "there are 3 classes"),
        (np.ones((2, 3)), [0.0, 1.0], "class indices"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(scores, target, message):
    with pytest.raises(ValueError, match=message):
        top1_correct(scores, np.array(target))


def test_shares_sum_to_one_vote_per_clip():
    scores = np.random.default_rng(2).integers(0, 2, size=(30, 4))
    np.testing.assert_allclose(top1_shares(scores).sum(axis=1), 1)
