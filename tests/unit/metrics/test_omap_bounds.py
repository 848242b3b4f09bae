from __future__ import annotations

import numpy as np
import pytest

from raysem.metrics.omap_bounds import precision_difference_intervals, precision_intervals, random_floor
from raysem.metrics.ontology_aware import ontology_aware_average_precision, tagging_precision

LINE = np.abs(np.arange(6)[:, None] - np.arange(6)[None])


def scored(num_clips: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.random((num_clips, 6)) < 0.25
    return generator.random(targets.shape) + 0.3 * targets, targets.astype(np.uint8)


def test_the_floor_is_the_mean_over_random_scores_on_the_same_labels():
    _, targets = scored()
    floor = random_floor(targets, LINE, seed=1, num_draws=20)
    generator = np.random.default_rng(2)
    others = [ontology_aware_average_precision(generator.random(targets.shape), targets, LINE) for _ in range(20)]
    assert floor.mean == pytest.approx(np.mean(others), abs=4 * np.std(others) / np.sqrt(10))
    assert floor.deviation == pytest.approx(np.std(others), rel=0.8)
    assert floor.by_level.mean() == pytest.approx(floor.mean)
    assert floor.mean_average_precision == pytest.approx(targets.mean(), abs=0.05)
    assert random_floor(targets, LINE, seed=1, num_draws=20).mean == floor.mean


def test_the_floor_of_the_reference_labels_is_the_one_of_its_random_scores(
    reference: dict[str, np.ndarray], audioset_distances: np.ndarray
):
    floor = random_floor(reference["A_target"], audioset_distances, seed=0)
    assert floor.mean == pytest.approx(float(reference["A_omap_random"]), abs=0.01)
    assert floor.mean_average_precision == pytest.approx(float(reference["A_map_sklearn_random"]), abs=0.01)


def test_fewer_clips_have_a_higher_floor():
    floors = [random_floor(scored(count)[1], LINE, seed=0, num_draws=5).mean for count in (20, 1000)]
    assert floors[0] > floors[1] + 0.02


def test_the_interval_has_the_spread_of_other_test_sets_around_the_estimate():
    scores, targets = scored()
    found = precision_intervals(scores, targets, LINE, seed=0, num_resamples=300)
    whole = tagging_precision(scores, targets, LINE)
    assert found.ontology_aware.estimate == whole.ontology_aware
    assert found.mean_average_precision.estimate == whole.mean_average_precision
    others = [tagging_precision(*scored(seed=seed), LINE) for seed in range(1, 60)]
    for interval, values in (
        (found.ontology_aware, [other.ontology_aware for other in others]),
        (found.mean_average_precision, [other.mean_average_precision for other in others]),
    ):
        assert interval.low < interval.estimate < interval.high
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.std(values), rel=0.35)


def test_the_same_seed_gives_the_same_interval():
    arguments = (*scored(), LINE)
    first = precision_intervals(*arguments, seed=3, num_resamples=20)
    assert precision_intervals(*arguments, seed=3, num_resamples=20) == first
    assert precision_intervals(*arguments, seed=4, num_resamples=20) != first


def test_a_model_against_itself_differs_by_nothing_and_a_paired_interval_is_narrow():
    scores, targets = scored()
    same = precision_difference_intervals(scores, scores, targets, LINE, seed=0, num_resamples=20)
    assert (same.ontology_aware.estimate, same.ontology_aware.low, same.ontology_aware.high) == (0, 0, 0)
    better = scores + 0.02 * targets
    apart = precision_intervals(scores, targets, LINE, seed=0, num_resamples=200).mean_average_precision
    paired = precision_difference_intervals(better, scores, targets, LINE, seed=0, num_resamples=200)
    assert paired.mean_average_precision.low > 0
    width = paired.mean_average_precision.high - paired.mean_average_precision.low
    assert width < (apart.high - apart.low) / 2


def test_draws_without_any_label_are_left_out():
    targets = np.zeros((4, 6))
    targets[0, 0] = 1
    found = precision_intervals(np.random.default_rng(0).random((4, 6)), targets, LINE, seed=0, num_resamples=50)
    assert np.isfinite([found.ontology_aware.low, found.ontology_aware.high]).all()


def test_wrong_numbers_are_refused():
    scores, targets = scored(20)
    with pytest.raises(ValueError, match="num_draws must be positive"):
        random_floor(targets, LINE, seed=0, num_draws=0)
    with pytest.raises(ValueError, match="level in"):
        precision_intervals(scores, targets, LINE, seed=0, level=95)
