"""Our metrics against scikit-learn's and scipy's, on random scores without ties and with them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from raysem.metrics.accuracy import confusion_matrix, per_class_accuracy, top1_correct
from raysem.metrics.average_precision import average_precision
from raysem.metrics.bootstrap import bootstrap_interval, paired_difference_interval
from raysem.metrics.d_prime import roc_auc
from raysem.metrics.rank_correlation import rank_correlation
from raysem.metrics.retrieval import retrieval_scores


@pytest.fixture
def scored():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 10, size=400)
    return generator.normal(size=(400, 10)) + 2 * np.eye(10)[target], target


def test_accuracy_and_confusion_equal_sklearns(scored):
    scores, target = scored
    predicted = scores.argmax(axis=1)
    confusion = confusion_matrix(scores, target)
    assert top1_correct(scores, target).mean() == pytest.approx(metrics.accuracy_score(target, predicted))
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(target, predicted))
    assert per_class_accuracy(confusion).mean() == pytest.approx(metrics.balanced_accuracy_score(target, predicted))


def test_recall_at_k_equals_sklearns_top_k_accuracy(scored):
    scores, target = scored
    found = retrieval_scores(scores, np.eye(10)[target], cutoffs=(1, 3, 5))
    for cutoff in (1, 3, 5):
        assert found.recall(cutoff) == pytest.approx(metrics.top_k_accuracy_score(target, scores, k=cutoff))


def test_average_precision_of_a_whole_gallery_equals_sklearns():
    generator = np.random.default_rng(1)
    similarity, relevant = generator.normal(size=(50, 30)), generator.random((50, 30)) < 0.2
    relevant[:, 0] = True
    ours = retrieval_scores(similarity, relevant, precision_cutoff=30).average_precision_Q
    theirs = [metrics.average_precision_score(r, s) for r, s in zip(relevant, similarity, strict=True)]
    np.testing.assert_allclose(ours, theirs)


def test_reciprocal_rank_equals_sklearns_label_ranking_average_precision(scored):
    scores, target = scored
    ours = retrieval_scores(scores, np.eye(10)[target], precision_cutoff=10).mean_average_precision()
    assert ours == pytest.approx(metrics.label_ranking_average_precision_score(np.eye(10)[target], scores))


def test_bootstrap_intervals_equal_scipys_within_their_own_noise(scored):
    scores, target = scored
    correct = top1_correct(scores, target)
    weaker = top1_correct(scores + np.random.default_rng(2).normal(size=scores.shape), target)
    for values, ours in (
        (correct, bootstrap_interval(correct, seed=0, num_resamples=9999)),
        (correct - weaker, paired_difference_interval(correct, weaker, seed=0, num_resamples=9999)),
    ):
        theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
        assert ours.to_json() == pytest.approx([theirs.low, theirs.high], abs=0.004)


@pytest.mark.parametrize("digits", [15, 1])
def test_average_precision_and_area_of_tags_equal_sklearns(digits):
    generator = np.random.default_rng(3)
    targets = generator.random((300, 8)) < 0.1
    scores = np.round(generator.random(targets.shape) + 0.2 * targets, digits)
    precision = metrics.average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(average_precision(scores, targets), precision, rtol=1e-12)
    np.testing.assert_allclose(roc_auc(scores, targets), metrics.roc_auc_score(targets, scores, average=None))


def test_rank_correlation_equals_scipys_with_ties():
    one, other = np.random.default_rng(4).integers(0, 9, size=(2, 200))
    assert rank_correlation(one, other + one) == pytest.approx(stats.spearmanr(one, other + one).statistic)
