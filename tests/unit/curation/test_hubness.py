import numpy as np
import pytest

from raysem.curation.hubness import csls, inverted_softmax, k_occurrence, querybank_norm, skewness


def test_k_occurrence_counts_how_often_an_item_is_a_neighbour():
    counts = k_occurrence(np.array([[0, 1], [0, 2], [0, -1]]), 4)
    assert counts.tolist() == [3, 1, 1, 0]


def test_an_unknown_item_is_refused():
    with pytest.raises(ValueError, match="neighbour 4 among 4 items"):
        k_occurrence(np.array([[4]]), 4)


def test_skewness_of_one_hub_among_n_items_has_its_closed_form():
    n = 10
    counts = np.zeros(n)
    counts[3] = 5
    p = 1 / n
    assert skewness(counts) == pytest.approx((1 - 2 * p) / np.sqrt(p * (1 - p)))
    assert skewness(counts * 7 + 2) == pytest.approx(skewness(counts))
    assert skewness(-counts) == pytest.approx(-skewness(counts))


def test_equal_counts_and_no_counts_have_no_skew():
    assert skewness(np.full(5, 3)) == 0
    assert skewness(np.zeros(0)) == 0


def test_csls_takes_away_what_both_sides_are_near_to_anyway():
    scores = csls(np.array([[0.8, 0.6]]), np.array([0.5]), np.array([0.7, 0.2]))
    np.testing.assert_allclose(scores, [[0.4, 0.5]])
    with pytest.raises(ValueError, match="means for"):
        csls(np.zeros((2, 2)), np.zeros(1), np.zeros(2))


def test_inverted_softmax_equals_its_definition_and_does_not_overflow():
    random = np.random.default_rng(0)
    similarity, bank = random.uniform(-1, 1, (3, 5)), random.uniform(-1, 1, (7, 5))
    expected = np.exp(20 * similarity) / np.exp(20 * bank).sum(axis=0)
    np.testing.assert_allclose(np.exp(inverted_softmax(similarity, bank)), expected)
    assert np.isfinite(inverted_softmax(similarity, bank, beta=1e5)).all()


def test_a_hub_loses_its_queries_to_the_item_that_is_theirs_alone():
    similarity = np.array([[0.8, 0.75]])
    bank = np.array([[0.8, 0.1], [0.9, 0.2], [0.85, 0.1]])
    assert similarity.argmax() == 0
    assert querybank_norm(similarity, bank).argmax() == 1


def test_queries_whose_nearest_item_is_no_hub_keep_their_similarities():
    similarity = np.array([[0.2, 0.75]])
    bank = np.array([[0.8, 0.1]])
    np.testing.assert_array_equal(querybank_norm(similarity, bank), similarity)


def test_a_bank_over_another_gallery_is_refused():
    with pytest.raises(ValueError, match="one gallery for both"):
        inverted_softmax(np.zeros((2, 3)), np.zeros((2, 4)))
