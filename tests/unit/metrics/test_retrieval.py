from __future__ import annotations

import itertools

import numpy as np
import pytest

from raysem.metrics import retrieval
from raysem.metrics.retrieval import retrieval_scores


def slow_scores(similarity_G, relevant_G, cutoffs, precision_cutoff):
    """The mean over every order of the gallery that the scores allow."""
    num_answers = len(similarity_G)
    recalls, precisions = [], []
    for order in itertools.permutations(range(num_answers)):
        if any(similarity_G[a] < similarity_G[b] for a, b in itertools.pairwise(order)):
            continue
        hits = [bool(relevant_G[answer]) for answer in order]
        recalls.append([float(any(hits[:k])) for k in cutoffs])
        found = [sum(hits[: at + 1]) / (at + 1) for at in range(min(precision_cutoff, num_answers)) if hits[at]]
        precisions.append(sum(found) / min(sum(hits), precision_cutoff))
    return np.mean(recalls, axis=0), np.mean(precisions)


def test_a_hand_worked_case_with_two_right_answers():
    scores = retrieval_scores(np.array([[0.9, 0.8, 0.7, 0.1]]), np.array([[False, True, False, True]]), cutoffs=(1, 2))
    assert scores.recall(1) == 0
    assert scores.recall(2) == 1
    assert scores.mean_average_precision() == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_with_one_right_answer_average_precision_is_one_over_its_rank():
    similarity = np.tile(-np.arange(20.0), (12, 1))
    relevant = np.eye(20, dtype=bool)[:12]
    expected = [1 / rank if rank <= 10 else 0 for rank in range(1, 13)]
    np.testing.assert_allclose(retrieval_scores(similarity, relevant).average_precision_Q, expected)


def test_a_perfect_ranking_scores_one_even_with_more_right_answers_than_the_cutoff():
    scores = retrieval_scores(np.arange(30.0)[None], np.arange(30)[None] >= 15)
    assert scores.mean_average_precision() == pytest.approx(1)
    assert [scores.recall(k) for k in (1, 5, 10)] == [1, 1, 1]


def test_a_collapsed_model_gets_what_guessing_gets():
    scores = retrieval_scores(np.ones((40, 40)), np.eye(40, dtype=bool))
    assert [scores.recall(k) for k in (1, 5, 10)] == pytest.approx([1 / 40, 5 / 40, 10 / 40])
    assert scores.mean_average_precision() == pytest.approx(sum(1 / r for r in range(1, 11)) / 40)


@pytest.mark.parametrize("seed", range(12))
def test_ties_count_as_the_mean_over_their_orders(seed):
    generator = np.random.default_rng(seed)
    similarity = generator.integers(0, 3, size=(1, 6)).astype(float)
    relevant = generator.random((1, 6)) < 0.4
    relevant[0, generator.integers(6)] = True
    found = retrieval_scores(similarity, relevant, cutoffs=(1, 2, 4), precision_cutoff=4)
    recall, precision = slow_scores(similarity[0], relevant[0], (1, 2, 4), 4)
    np.testing.assert_allclose(found.recall_QC[0], recall, atol=1e-12)
    assert found.average_precision_Q[0] == pytest.approx(precision)


def test_scores_do_not_depend_on_the_order_of_the_gallery_or_on_chunks(monkeypatch):
    generator = np.random.default_rng(0)
    similarity = generator.integers(0, 8, size=(30, 25)).astype(float)
    relevant = generator.random((30, 25)) < 0.1
    relevant[np.arange(30), generator.integers(25, size=30)] = True
    whole = retrieval_scores(similarity, relevant)
    order = generator.permutation(25)
    monkeypatch.setattr(retrieval, "_CHUNK_CELLS", 60)
    shuffled = retrieval_scores(similarity[:, order], relevant[:, order])
    np.testing.assert_allclose(shuffled.recall_QC, whole.recall_QC)
    np.testing.assert_allclose(shuffled.average_precision_Q, whole.average_precision_Q)


def test_a_gallery_smaller_than_the_cutoff_is_searched_whole():
    scores = retrieval_scores(np.array([[0.1, 0.9]]), np.array([[True, False]]))
    assert [scores.recall(k) for k in (1, 5, 10)] == [0, 1, 1]
    assert scores.mean_average_precision() == 0.5


@pytest.mark.parametrize(
    ("similarity", "relevant", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), "got .2, 3. and .2, 2."),
        (np.array([[np.nan, 0]]), np.ones((1, 2)), "1 NaN"),
        (np.ones((2, 2)), np.array([[1, 0], [0, 0]]), "1 queries have no right answer.*query 1"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(similarity, relevant, message):
    with pytest.raises(ValueError, match=message):
        retrieval_scores(similarity, relevant)
