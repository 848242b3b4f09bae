from __future__ import annotations

import numpy as np
import pytest
import torch

import raysem.metrics
from raysem.metrics.multi_label import tag_scores
from raysem.metrics.ontology_aware import (
    LevelCounter,
    inverse_level_means,
    ontology_aware_average_precision,
    tagging_precision,
)

LINE = np.abs(np.arange(6)[:, None] - np.arange(6)[None])


def scored(seed: int = 0, num_clips: int = 50, num_classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.random((num_clips, num_classes)) < 0.25
    return np.round(generator.random(targets.shape) + 0.4 * targets, 1), targets.astype(np.uint8)  # many ties


def slow_levels(scores_NK: np.ndarray, targets_NK: np.ndarray, distances_KK: np.ndarray) -> np.ndarray:
    """The definition, clip by clip and threshold by threshold."""
    num_classes = len(distances_KK)
    levels = np.full((distances_KK.max() + 1, num_classes), np.nan)
    for level in range(len(levels)):
        far = [
            distances_KK[a, b] * (distances_KK[a, b] > level) for a in range(num_classes) for b in range(num_classes)
        ]
        mean = sum(far) / (num_classes * (num_classes - 1))
        for c in np.flatnonzero(targets_NK.any(axis=0)):
            total = recall = 0.0
            for threshold in sorted(set(scores_NK[:, c].tolist()), reverse=True):
                right = wrong = 0.0
                for i in np.flatnonzero(scores_NK[:, c] >= threshold):
                    labels = np.flatnonzero(targets_NK[i])
                    distance = min((distances_KK[t, c] for t in labels), default=distances_KK.max())
                    if targets_NK[i, c]:
                        right += 1
                    elif mean > 0:
                        wrong += distance * (distance > level) / mean
                if right:
                    total += (right / targets_NK[:, c].sum() - recall) * right / (right + wrong)
                    recall = right / targets_NK[:, c].sum()
            levels[level, c] = total
    return levels


def test_it_agrees_with_its_definition_written_out():
    scores, targets = scored()
    targets[:3] = 0  # clips without labels
    found = tagging_precision(scores, targets, LINE)
    np.testing.assert_allclose(found.level_LK, slow_levels(scores, targets, LINE), rtol=1e-13)
    assert found.ontology_aware == pytest.approx(found.level_LK.mean())


@pytest.mark.parametrize("kind", ["random", "informed", "ties"])
def test_the_reference_vectors_of_the_metrics_authors_are_met(
    reference: dict[str, np.ndarray], audioset_distances: np.ndarray, kind: str
):
    found = tagging_precision(reference[f"A_pred_{kind}"], reference["A_target"], audioset_distances)
    assert found.ontology_aware == pytest.approx(float(reference[f"A_omap_{kind}"]), abs=1e-12)
    np.testing.assert_allclose(found.by_level, reference[f"A_omap_levels_{kind}"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.level_LK, reference[f"A_omap_detail_{kind}"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.plain_K, reference[f"A_ap_sklearn_{kind}"], rtol=0, atol=1e-12)
    assert found.mean_average_precision == pytest.approx(float(reference[f"A_map_sklearn_{kind}"]), abs=1e-12)
    np.testing.assert_allclose(found.per_class, reference[f"A_omap_detail_{kind}"].mean(axis=0), rtol=0, atol=1e-12)


def test_the_weights_of_the_levels_are_the_published_ones(audioset_distances: np.ndarray):
    weights = inverse_level_means(audioset_distances)
    assert len(weights) == 22
    assert weights[[0, 1, 5, 10, 21]] == pytest.approx([0.1267, 0.126744, 0.144279, 0.426834, 0], abs=5e-7)


def test_one_false_positive_weighs_its_distance_over_the_levels_mean():
    distances = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]])  # means over pairs: 2, 5/3, 1, 0
    scores, targets = np.array([[1, 0, 0], [2, 5, 0]]), np.array([[1, 0, 0], [0, 1, 0]])
    found = tagging_precision(scores, targets, distances)
    # class 0: the clip of class 1 (distance 1) scores above the one that has it
    assert found.level_LK[:, 0].tolist() == [1 / (1 + 1 / 2), 1, 1, 1]
    assert found.level_LK[:, 1].tolist() == [1, 1, 1, 1]
    assert np.isnan(found.level_LK[:, 2]).all()
    assert found.plain_K[:2].tolist() == [0.5, 1]
    assert found.by_level.tolist() == [(2 / 3 + 1) / 2, 1, 1, 1]
    assert found.num_absent == 1


def test_the_last_level_is_one_for_any_scores_and_the_first_is_not_map():
    found = tagging_precision(*scored(), LINE)
    assert found.by_level[-1] == 1
    assert found.by_level[0] != pytest.approx(found.mean_average_precision, abs=1e-3)


def test_classes_at_one_distance_have_map_at_level_zero():
    found = tagging_precision(*scored(), 1 - np.eye(6))
    assert found.by_level[0] == pytest.approx(found.mean_average_precision, rel=1e-13)


def test_perfect_scores_reach_one_and_nearer_mistakes_cost_less():
    _, targets = scored()
    assert ontology_aware_average_precision(targets, targets, LINE) == 1
    near, far = targets.astype(float), targets.astype(float)
    for clip, row in enumerate(targets):
        if row.sum() == 1 and row[0]:
            near[clip, 1], far[clip, 5] = 2, 2
    assert (near != targets).any()
    assert ontology_aware_average_precision(far, targets, LINE) < ontology_aware_average_precision(near, targets, LINE)


def test_order_of_clips_and_classes_and_the_scale_of_scores_do_not_matter():
    scores, targets = scored()
    expected = ontology_aware_average_precision(scores, targets, LINE)
    generator = np.random.default_rng(1)
    clips, classes = generator.permutation(len(scores)), generator.permutation(6)
    turned = scores[clips][:, classes], targets[clips][:, classes], LINE[np.ix_(classes, classes)]
    assert ontology_aware_average_precision(*turned) == pytest.approx(expected, rel=1e-14)
    assert ontology_aware_average_precision(7 * scores - 3, targets, LINE) == expected


def test_the_fixed_name_takes_torch_and_gives_a_number():
    scores, targets = scored()
    function = raysem.metrics.ontology_aware_average_precision
    found = function(torch.tensor(scores, requires_grad=True), torch.tensor(targets), torch.tensor(LINE))
    assert isinstance(found, float)
    assert found == function(scores, targets, LINE)


def test_drawing_every_clip_once_is_the_whole_and_twice_is_the_repeated_set():
    scores, targets = scored()
    counter = LevelCounter(tag_scores(scores, targets), LINE)
    times = np.ones((2, len(scores)))
    times[1] = np.arange(len(scores)) % 3
    once, drawn = counter.resampled(times)
    np.testing.assert_array_equal(once.level_LK, counter.precision().level_LK)
    repeated = np.repeat(np.arange(len(scores)), times[1].astype(int))
    expected = tagging_precision(scores[repeated], targets[repeated], LINE)
    np.testing.assert_allclose(drawn.level_LK, expected.level_LK, rtol=1e-13)
    np.testing.assert_allclose(drawn.plain_K, expected.plain_K, rtol=1e-13)


def test_a_class_that_is_not_drawn_is_absent():
    scores, targets = np.array([[1.0, 0], [0, 1], [0, 1]]), np.array([[1, 0], [0, 1], [0, 1]])
    (drawn,) = LevelCounter(tag_scores(scores, targets), 1 - np.eye(2)).resampled(np.array([[0.0, 1, 2]]))
    assert np.isnan(drawn.plain_K).tolist() == [True, False]
    assert drawn.ontology_aware == 1


@pytest.mark.parametrize(
    ("scores", "targets", "distances", "message"),
    [
        (np.full((2, 6), np.nan), np.ones((2, 6)), LINE, "12 NaN in 2 clips"),
        (np.ones((2, 5)), np.ones((2, 6)), LINE, r"got \(2, 5\) and \(2, 6\)"),
        (np.ones((2, 5)), np.ones((2, 5)), LINE, r"distances must be \(5, 5\) for these classes, got \(6, 6\)"),
        (np.ones((2, 1)), np.ones((2, 1)), np.zeros((1, 1)), "two at least"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(scores, targets, distances, message):
    with pytest.raises(ValueError, match=message):
        ontology_aware_average_precision(scores, targets, distances)
