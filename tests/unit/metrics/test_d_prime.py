from __future__ import annotations

import math

import numpy as np
import pytest

from raysem.metrics.d_prime import d_prime, mean_d_prime, roc_auc


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    generator = np.random.default_rng(0)
    targets = generator.random((40, 5)) < 0.3
    scores = np.round(generator.random(targets.shape) + 0.3 * targets, 1)
    for area, scores_N, has_N in zip(roc_auc(scores, targets), scores.T, targets.T, strict=True):
        pairs = [(a > b) + (a == b) / 2 for a in scores_N[has_N] for b in scores_N[~has_N]]
        assert area == pytest.approx(np.mean(pairs), rel=1e-13)


def test_classes_that_no_clip_or_every_clip_has_are_left_out():
    targets = np.array([[0, 1, 1], [0, 1, 0]])
    scores = np.array([[0.1, 0.2, 0.9], [0.3, 0.1, 0.2]])
    np.testing.assert_array_equal(roc_auc(scores, targets), [np.nan, np.nan, 1])


def test_the_area_turns_around_with_the_scores():
    generator = np.random.default_rng(1)
    scores, targets = generator.random((30, 3)), generator.random((30, 3)) < 0.4
    np.testing.assert_allclose(roc_auc(-scores, targets), 1 - roc_auc(scores, targets))


def test_d_prime_is_the_distance_of_two_normal_distributions():
    generator = np.random.default_rng(2)
    targets = np.arange(40_000)[:, None] % 2
    assert mean_d_prime(generator.normal(size=targets.shape) + 1.5 * targets, targets) == pytest.approx(1.5, abs=0.03)


def test_d_prime_has_its_known_values():
    assert d_prime(0.5) == 0
    assert d_prime(0.973) == pytest.approx(2.725, abs=1e-3)
    assert d_prime(0.3) == -d_prime(0.7)
    assert (d_prime(1), d_prime(0)) == (math.inf, -math.inf)
    with pytest.raises(ValueError, match="lies in"):
        d_prime(1.1)
