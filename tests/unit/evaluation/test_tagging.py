from __future__ import annotations

import json
import math

import numpy as np
import pytest

from raysem import config
from raysem.errors import ConfigError
from raysem.evaluation.tagging import TaggingResult, TaggingSettings, tagging_differences, tagging_result
from raysem.metrics.average_precision import mean_average_precision
from raysem.metrics.d_prime import mean_d_prime
from raysem.metrics.omap_bounds import precision_difference_intervals, precision_intervals, random_floor
from raysem.metrics.ontology_aware import ontology_aware_average_precision
from raysem.metrics.ontology_distance import false_positive_distance

LINE = np.abs(np.arange(6)[:, None] - np.arange(6)[None])
NAMES = ["Dog", "Cat", "Rain", "Siren", "Piano", "Hum"]
QUICK = TaggingSettings(num_resamples=20, num_floor_draws=2)


def scored(num_clips: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Several labels a clip, clips without any, and no clip that hums."""
    generator = np.random.default_rng(seed)
    targets = (generator.random((num_clips, 6)) < 0.25).astype(np.uint8)
    targets[:, 5] = 0
    return generator.random(targets.shape) + 0.3 * targets, targets


def measured(scores: np.ndarray, targets: np.ndarray, **changes: object) -> TaggingResult:
    return tagging_result(scores, targets, LINE, NAMES, **{"settings": QUICK, "seed": 3} | changes)


def test_every_number_is_the_metrics_own():
    scores, targets = scored()
    content = measured(scores, targets).to_json()
    assert content["mAP"] == pytest.approx(mean_average_precision(scores, targets), abs=1e-12)
    assert content["OmAP"] == pytest.approx(ontology_aware_average_precision(scores, targets, LINE), abs=1e-12)
    assert content["d_prime"] == pytest.approx(mean_d_prime(scores, targets))
    assert content["false_positive_distance"] == pytest.approx(false_positive_distance(scores, targets, LINE))
    assert np.mean(content["OmAP_by_level"]) == pytest.approx(content["OmAP"])
    floor = random_floor(targets, LINE, seed=3, num_draws=2)
    assert content["random_floor"]["OmAP"] == floor.mean
    assert content["random_floor"]["OmAP_by_level"] == floor.by_level.tolist()
    bounds = precision_intervals(scores, targets, LINE, seed=3, num_resamples=20)
    assert content["OmAP_interval"] == bounds.ontology_aware.to_json()
    assert content["mAP_interval"] == bounds.mean_average_precision.to_json()
    assert (content["interval_level"], content["num_resamples"]) == (0.95, 20)


def test_audiosets_classes_have_22_levels(reference: dict[str, np.ndarray], audioset_distances: np.ndarray):
    names = [str(index) for index in range(527)]
    settings = TaggingSettings(num_resamples=2, num_floor_draws=1)
    result = tagging_result(
        reference["A_pred_informed"], reference["A_target"], audioset_distances, names, settings=settings
    )
    content = result.to_json()
    assert len(content["OmAP_by_level"]) == len(content["random_floor"]["OmAP_by_level"]) == 22
    assert content["OmAP"] == pytest.approx(float(reference["A_omap_informed"]), abs=1e-12)
    assert content["mAP"] == pytest.approx(float(reference["A_map_sklearn_informed"]), abs=1e-12)
    assert content["random_floor"]["OmAP_deviation"] is None  # one draw has no spread


def test_clips_labels_and_classes_are_counted():
    scores, targets = scored()
    content = measured(scores, targets, num_unscored=7).to_json()
    assert (content["num_clips"], content["num_unscored"]) == (80, 7)
    assert content["num_unlabelled"] == int((targets.sum(axis=1) == 0).sum()) > 0
    assert (content["num_classes"], content["num_absent"]) == (5, 1)
    assert content["num_positives"] == sum(row["num_positives"] for row in content["per_class"]) == targets.sum()
    assert [row["name"] for row in content["per_class"]] == NAMES


def test_the_classes_give_the_means_and_an_absent_one_has_no_number():
    content = measured(*scored()).to_json()
    *present, absent = content["per_class"]
    assert (absent["AP"], absent["OmAP"], absent["num_positives"]) == (None, None, 0)
    assert np.mean([row["AP"] for row in present]) == pytest.approx(content["mAP"])
    assert np.mean([row["OmAP"] for row in present]) == pytest.approx(content["OmAP"])


def test_the_result_can_be_written_as_strict_json():
    scores, targets = scored()
    for given in (scores, targets.astype(float)):  # a perfect model: d' is infinite and there is no mistake
        json.dumps(measured(given, targets).to_json(), allow_nan=False)
    perfect = measured(targets.astype(float), targets)
    assert perfect.d_prime == math.inf
    assert (perfect.to_json()["d_prime"], perfect.to_json()["false_positive_distance"]) == (None, None)
    assert sum(perfect.to_json()["false_positives_by_distance"]) == 0


def test_classes_that_every_clip_has_leave_no_d_prime():
    targets = np.zeros((4, 6), dtype=np.uint8)
    targets[:, 2] = 1
    assert measured(np.random.default_rng(0).random((4, 6)), targets).d_prime is None


def test_accuracy_is_told_only_where_every_clip_has_one_label():
    targets = np.eye(6)[[0, 1, 2, 3]]
    scores = targets.copy()
    scores[3] = 0  # all classes tie: right by one chance in six
    assert measured(scores, targets).accuracy == pytest.approx((3 + 1 / 6) / 4)
    assert measured(*scored()).accuracy is None


def test_the_floor_of_a_model_before_serves_the_next():
    scores, targets = scored()
    first = measured(scores, targets)
    assert measured(scores, targets, floor=first.floor).to_json() == first.to_json()
    with pytest.raises(ValueError, match="the floor has 6 levels, these classes 3"):
        tagging_result(scores[:, :3], targets[:, :3], LINE[:3, :3], NAMES[:3], settings=QUICK, floor=first.floor)


def test_wrong_input_is_refused():
    scores, targets = scored()
    with pytest.raises(ValueError, match="one name for each of 6 classes, got 5"):
        tagging_result(scores, targets, LINE, NAMES[:5], settings=QUICK)
    with pytest.raises(ValueError, match="1 NaN in 1 clips"):
        measured(np.where(np.arange(480).reshape(80, 6) == 9, np.nan, scores), targets)
    with pytest.raises(ConfigError, match="num_resamples"):
        config.build(TaggingSettings, {"num_resamples": 1})


def test_each_model_is_compared_with_each_baseline_in_both_metrics():
    scores, targets = scored()
    models = {"SPA": scores + 0.2 * targets, "one-hot": scores, "OBCE": scores + 0.1 * targets}
    rows = tagging_differences(models, targets, LINE, ["one-hot", "OBCE"], set_name="eval", settings=QUICK, seed=5)
    assert [(row.student, row.baseline, row.metric) for row in rows] == [
        (student, baseline, metric)
        for student, baseline in (("SPA", "one-hot"), ("SPA", "OBCE"), ("OBCE", "one-hot"))
        for metric in ("OmAP", "mAP")
    ]
    expected = precision_difference_intervals(models["SPA"], scores, targets, LINE, seed=5, num_resamples=20)
    assert rows[0].interval == expected.ontology_aware
    assert rows[1].interval == expected.mean_average_precision
    content = rows[0].to_json()
    assert content["difference"] == pytest.approx(
        measured(models["SPA"], targets).precision.ontology_aware - measured(scores, targets).precision.ontology_aware
    )
    assert (content["set"], content["num_clips"], content["num_seeds"]) == ("eval", 80, 1)


def test_models_that_do_not_fit_are_refused_by_name():
    scores, targets = scored()
    with pytest.raises(ValueError, match=r"no baseline \['SPA'\]; there are \['one-hot'\]"):
        tagging_differences({"one-hot": scores}, targets, LINE, ["SPA"], set_name="eval", settings=QUICK)
    models = {"one-hot": scores, "SPA": scores[:-1]}
    with pytest.raises(ValueError, match=r"eval: SPA against one-hot: .*alike.*\(79, 6\)"):
        tagging_differences(models, targets, LINE, ["one-hot"], set_name="eval", settings=QUICK)
