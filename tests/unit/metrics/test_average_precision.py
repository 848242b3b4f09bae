from __future__ import annotations

import numpy as np
import pytest
import torch

from raysem.metrics.average_precision import average_precision, mean_average_precision


def column(values: list[float]) -> np.ndarray:
    return np.array(values)[:, None]


def scored(seed: int = 0, num_clips: int = 60, num_classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.random((num_clips, num_classes)) < 0.15
    return np.round(generator.random(targets.shape) + 0.4 * targets, 1), targets.astype(np.uint8)  # many ties


def slow_average_precision(scores_N: np.ndarray, targets_N: np.ndarray) -> float:
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores_N.tolist()), reverse=True):
        called = scores_N >= threshold
        right = int((called & (targets_N == 1)).sum())
        total += (right / targets_N.sum() - recall) * right / called.sum()
        recall = right / targets_N.sum()
    return total


def test_a_ranking_by_hand_has_its_average_precision():
    scores, targets = column([0.9, 0.8, 0.7, 0.6]), column([1, 0, 1, 0])
    assert average_precision(scores, targets)[0] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_tied_clips_share_one_threshold_whatever_their_order():
    for targets in ([1, 0, 0], [0, 0, 1]):
        assert average_precision(column([0.5, 0.5, 0.5]), column(targets))[0] == pytest.approx(1 / 3)


def test_it_agrees_with_its_loop_over_thresholds():
    scores, targets = scored()
    slow = [slow_average_precision(s, t) for s, t in zip(scores.T, targets.T, strict=True)]
    np.testing.assert_allclose(average_precision(scores, targets), slow, rtol=1e-13)


def test_a_class_that_no_clip_has_is_left_out_and_not_zero():
    scores, targets = scored()
    targets[:, 3] = 0
    found = average_precision(scores, targets)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]
    assert mean_average_precision(scores, targets) == pytest.approx(np.delete(found, 3).mean())


def test_a_class_that_every_clip_has_is_always_right():
    assert average_precision(np.random.default_rng(0).random((5, 1)), np.ones((5, 1))).tolist() == [1]


def test_only_the_order_of_scores_matters_not_that_of_clips():
    scores, targets = scored()
    expected = average_precision(scores, targets)
    order = np.random.default_rng(1).permutation(len(scores))
    np.testing.assert_array_equal(average_precision(scores[order], targets[order]), expected)
    np.testing.assert_array_equal(average_precision(np.exp(3 * scores), targets), expected)


def test_infinite_scores_are_scores():
    assert average_precision(column([np.inf, 1, -np.inf]), column([1, 0, 1]))[0] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_torch_gives_what_numpy_gives(dtype: torch.dtype):
    scores, targets = scored()
    tensor = torch.tensor(scores, dtype=dtype, requires_grad=True)
    expected = average_precision(tensor.detach().double().numpy(), targets)
    np.testing.assert_array_equal(average_precision(tensor, torch.tensor(targets)), expected)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), r"alike and not empty, got \(3, 2\) and \(3, 3\)"),
        (np.ones(3), np.ones(3), r"must be \(clips, classes\)"),
        (np.ones((0, 2)), np.ones((0, 2)), "not empty"),
        (np.array([[1.0], [np.nan], [np.nan]]), np.ones((3, 1)), "2 NaN in 2 clips, the first is clip 1"),
        (np.ones((2, 1)), np.array([[1.0], [0.5]]), "0 or 1, found 0.5"),
        (np.ones((2, 1)), np.array([[1.0], [np.nan]]), "0 or 1, found nan"),
        (np.ones((2, 2)), np.zeros((2, 2)), "no clip has a label"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(scores: np.ndarray, targets: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        average_precision(scores, targets)
