from __future__ import annotations

import numpy as np
import pytest

from raysem.metrics import bootstrap
from raysem.metrics.bootstrap import bootstrap_interval, paired_difference_interval


def test_the_interval_of_a_mean_is_close_to_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, size=1000)
    interval = bootstrap_interval(values, seed=1, num_resamples=4000)
    half_width = 1.96 * values.std() / np.sqrt(1000)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.15 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.15 * half_width)


def test_equal_values_give_an_interval_without_width():
    assert bootstrap_interval(np.ones(20), seed=0).to_json() == [1, 1]


def test_the_same_seed_gives_the_same_interval_whatever_the_chunks(monkeypatch):
    values = np.random.default_rng(0).random(50)
    first = bootstrap_interval(values, seed=3, num_resamples=300)
    monkeypatch.setattr(bootstrap, "_CHUNK_CELLS", 700)
    assert bootstrap_interval(values, seed=3, num_resamples=300) == first
    assert bootstrap_interval(values, seed=4, num_resamples=300) != first


def test_a_paired_interval_is_narrower_than_the_two_apart():
    generator = np.random.default_rng(0)
    easy = generator.random(400)
    baseline = (easy > 0.5).astype(float)
    student = (easy > 0.45).astype(float)
    difference = paired_difference_interval(student, baseline, seed=0)
    alone = bootstrap_interval(student, seed=0)
    assert difference.estimate == pytest.approx(student.mean() - baseline.mean())
    assert difference.low > 0
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_a_model_against_itself_differs_by_exactly_nothing():
    values = np.random.default_rng(0).random((3, 40))
    assert paired_difference_interval(values, values, seed=0).to_json() == [0, 0]


def test_seeds_that_disagree_widen_the_interval():
    same = np.tile(np.random.default_rng(0).integers(0, 2, 500), (3, 1)).astype(float)
    disagreeing = same + np.array([[-0.2], [0.0], [0.2]])
    narrow, wide = bootstrap_interval(same, seed=0), bootstrap_interval(disagreeing, seed=0)
    assert wide.estimate == pytest.approx(narrow.estimate)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_level_of_seeds_has_the_variance_of_a_crossed_bootstrap():
    values = np.random.default_rng(0).normal(size=(4, 300)) * 0.01 + np.array([[0.0], [1.0], [2.0], [3.0]])
    interval = bootstrap_interval(values, seed=0, num_resamples=20000, level=0.68)
    assert (interval.high - interval.low) / 2 == pytest.approx(np.arange(4).std() / 2, rel=0.15)


def test_one_row_of_a_baseline_stands_for_every_seed():
    student, teacher = np.random.default_rng(0).random((3, 30)), np.random.default_rng(1).random(30)
    tiled = paired_difference_interval(student, np.tile(teacher, (3, 1)), seed=0)
    assert paired_difference_interval(student, teacher, seed=0) == tiled


def test_copies_of_a_clip_in_one_group_add_no_certainty():
    values = np.random.default_rng(0).random(100)
    copied = np.repeat(values, 5)
    grouped = bootstrap_interval(copied, seed=0, groups_A=np.repeat(np.arange(100), 5))
    loose = bootstrap_interval(copied, seed=0)
    assert grouped.to_json() == pytest.approx(bootstrap_interval(values, seed=0).to_json())
    assert loose.high - loose.low < 0.6 * (grouped.high - grouped.low)


def test_groups_of_unequal_size_keep_the_mean_over_values():
    interval = bootstrap_interval(np.array([1.0, 1, 1, 0]), seed=0, groups_A=[7, 7, 7, 2])
    assert interval.estimate == 0.75
    assert interval.to_json() == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.array([]), seed=0), "not empty"),
        (lambda: bootstrap_interval(np.array([1, np.nan]), seed=0), "1 values that are not finite"),
        (lambda: bootstrap_interval(np.ones(3), seed=0, level=95), "level in"),
        (lambda: bootstrap_interval(np.ones(3), seed=0, groups_A=[1, 2]), "one per value"),
        (lambda: paired_difference_interval(np.ones(3), np.ones(4), seed=0), "model has 3, baseline 4"),
        (lambda: paired_difference_interval(np.ones((3, 4)), np.ones((2, 4)), seed=0), "seeds must pair up"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call()
