from __future__ import annotations

import numpy as np
import pytest

from raysem.errors import DataError
from raysem.training.sampling import balanced_weights


def test_a_clip_weighs_the_sum_over_its_labels_of_the_published_inverse_frequency():
    labels = [["dog"], ["dog", "bark"], ["rain"], ["dog"]]
    dog, once = 1000 / 3.01, 1000 / 1.01
    np.testing.assert_allclose(balanced_weights(labels), [dog, dog + once, once, dog], rtol=1e-15)
    assert balanced_weights(labels).dtype == np.float64
    np.testing.assert_allclose(
        balanced_weights([["a"], ["a"], ["b"]], count_offset=100), [1000 / 102] * 2 + [1000 / 101]
    )


def test_a_clip_without_labels_gets_the_smallest_weight_of_the_others():
    labels = [["dog"], [], ["dog", "bark"], ["rain"], ["dog"], []]
    weights = balanced_weights(labels)
    assert weights[1] == weights[5] == weights[0] == weights.min()


def test_a_label_written_twice_counts_once():
    twice, once = balanced_weights([["a", "b", "a"], ["a"]]), balanced_weights([["a", "b"], ["a"]])
    np.testing.assert_array_equal(twice, once)


def test_weights_equal_a_loop_over_clips_and_follow_their_order():
    generator = np.random.default_rng(0)
    names = [f"class {k}" for k in range(40)]
    labels = [list(generator.choice(names, size=1 + k % 4, replace=False, p=zipf(40))) for k in range(300)]
    weights = balanced_weights(labels)
    for k in range(300):
        expected = 0.0
        for name in labels[k]:
            expected += 1000 / (sum(name in other for other in labels) + 0.01)
        assert weights[k] == pytest.approx(expected, rel=1e-12)
    order = generator.permutation(300)
    np.testing.assert_array_equal(balanced_weights([labels[k] for k in order]), weights[order])


def test_clips_of_one_label_each_make_classes_equally_likely():
    labels = [["common"]] * 900 + [["rare"]] * 9
    weights = balanced_weights(labels)
    assert weights[:900].sum() == pytest.approx(weights[900:].sum(), rel=2e-3)  # but for the offset of 0.01


def test_labels_that_cannot_be_balanced_are_refused():
    with pytest.raises(DataError, match="none of the 2 clips has a label"):
        balanced_weights([[], []])
    with pytest.raises(ValueError, match="count_offset must not be negative, got -1"):
        balanced_weights([["a"]], count_offset=-1)


def zipf(count: int) -> np.ndarray:
    weights = 1 / np.arange(1, count + 1)
    return weights / weights.sum()
