from __future__ import annotations

import numpy as np
import pytest

from raysem.metrics.rank_correlation import mean_ranks, pair_rank_correlation, rank_correlation


def test_equal_values_share_their_mean_rank():
    assert mean_ranks(np.array([3.0, 1, 3, 2, 3])).tolist() == [4, 1, 4, 2, 4]


def test_four_values_by_hand():
    # ranks 1 2 3 4 and 1 2.5 2.5 4
    assert rank_correlation([1, 2, 3, 4], [10, 20, 20, 90]) == pytest.approx(4.5 / np.sqrt(5 * 4.5))


def test_only_the_order_matters():
    values = np.random.default_rng(0).normal(size=50)
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -(values**3)) == pytest.approx(-1)
    assert np.isnan(rank_correlation(values, np.ones(50)))


def test_every_pair_of_classes_counts_once_and_the_diagonal_not_at_all():
    similarity = np.array([[9, 3, 2], [3, 9, 1], [2, 1, 9.0]])
    distances = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    assert pair_rank_correlation(similarity, distances) == pytest.approx(-1)
    order = [2, 0, 1]
    turned = similarity[np.ix_(order, order)], distances[np.ix_(order, order)]
    assert pair_rank_correlation(*turned) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_correlation([1, 2], [1, 2, 3]), "same length"),
        (lambda: rank_correlation([1], [1]), "2 at least"),
        (lambda: rank_correlation([1, np.nan], [1, 2]), "finite"),
        (lambda: pair_rank_correlation(np.eye(3), np.eye(2)), "square matrices alike"),
        (lambda: pair_rank_correlation(np.ones((3, 2)), np.ones((3, 2))), "square matrices alike"),
    ],
)
def test_wrong_input_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
