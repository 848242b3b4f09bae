import json

import numpy as np
import pytest

from raysem.curation.hubness import skewness
from raysem.curation.statistics import (
    EDGES_E,
    ImprovementSetCounts,
    PairCounts,
    SimilarityHistogram,
    quantile_similarity,
)
from raysem.reports.content import ImprovementSetStatistics, SimilarityStatistics

FLOOR, NUM_BINS = 0.4, 60


def above(values: np.ndarray, threshold: float) -> int:
    """At exactly three decimals."""
    place = int(np.flatnonzero(np.float32(threshold) == EDGES_E)[0])
    return int(SimilarityHistogram.of(values).num_above()[place])


def test_counts_at_thresholds_of_three_decimals_are_exact():
    steps = np.arange(-1000, 1001)
    at = np.array([round(s / 1000, 3) for s in steps], np.float32)
    values = np.concatenate([at, np.nextafter(at, np.float32(-2))])
    assert len(SimilarityHistogram.of(values)) == len(values)
    for threshold in (0.7, 0.75, 0.601, 0.0, -0.333, 0.999):
        assert above(values, threshold) == int((values >= np.float32(threshold)).sum())


def test_rounding_past_one_is_counted_as_one():
    assert above(np.array([1.0000001, -1.0000001], np.float32), 1.0) == 1


def make_pairs(num_pairs: int = 400, seed: int = 0) -> tuple[np.ndarray, ...]:
    """(clip, similarity, nearest, known, right) of pairs of up to 40 clips."""
    random = np.random.default_rng(seed)
    clip = random.integers(40, size=num_pairs)
    similarity = random.uniform(FLOOR, 1, num_pairs).astype(np.float32)
    similarity[:2] = FLOOR, 1
    nearest = np.array([value == similarity[clip == c].max() for c, value in zip(clip, similarity, strict=True)])
    verdict = random.integers(3, size=num_pairs)
    return clip, similarity, nearest, verdict != 2, verdict == 1


def test_what_a_threshold_keeps_equals_a_slow_twin():
    clip, similarity, nearest, known, right = make_pairs()
    counts = PairCounts(FLOOR, NUM_BINS)
    counts.add(similarity, nearest, known, right)
    found = json.loads(json.dumps(counts.to_json()))
    assert (counts.num_pairs, counts.num_judged) == (400, known.sum())
    assert (found["bin_edges"][0], found["bin_edges"][-1]) == (FLOOR, 1.0)
    assert sum(found["bin_counts"]) == 400
    for place, threshold in enumerate(found["sweep_thresholds"]):
        kept = similarity >= np.float32(threshold)
        assert found["kept_pairs"][place] == kept.sum()
        assert found["kept_clips"][place] == len(set(clip[kept]))
        expected = right[kept & known].mean() if (kept & known).any() else None
        assert found["precision"][place] == (None if expected is None else pytest.approx(expected))
    read = SimilarityStatistics.from_json(
        found | {"num_clips": 40, "num_captions": 5, "floor": FLOOR, "improvement_sets": {}}
    )
    assert len(read.bin_edges) == NUM_BINS + 1
    assert len(read.bin_counts) == len(read.sweep_thresholds) == NUM_BINS


def test_shards_add_up_to_the_whole_in_any_order():
    columns = make_pairs()
    whole = PairCounts(FLOOR, NUM_BINS)
    whole.add(*columns[1:])
    for order in ([0, 1, 2], [2, 1, 0]):
        parts = PairCounts(FLOOR, NUM_BINS)
        for part in order:
            parts.add(*(column[columns[0] % 3 == part] for column in columns[1:]))
        assert parts.to_json() == whole.to_json()


def test_precision_is_unknown_where_nothing_was_judged():
    similarity, yes, no = np.array([0.55, 0.85]), np.array([True, True]), np.array([False, False])
    counts = PairCounts(0.5, 5)
    counts.add(similarity, yes, no, yes)
    assert counts.to_json()["precision"] is None
    counts.add(similarity, yes, np.array([True, False]), yes)
    assert counts.to_json()["precision"] == [1.0, None, None, None, None]


def test_an_improvement_set_is_counted_by_clip_and_by_caption():
    counts = ImprovementSetCounts()
    for captions, verdicts in ([["x", "y"], [True, None]], [["x"], [False]], [["x", "z", "y"], [None, None, True]]):
        counts.add(captions, verdicts)
    found = json.loads(json.dumps(counts.to_json({"x": "rain", "y": "wind", "z": "dog"}, num_frequent=2)))
    assert (found["num_clips"], found["num_pairs"], found["num_captions"]) == (3, 6, 3)
    assert found["captions_per_clip"] == {"1": 1, "2": 1, "3": 1}
    assert found["clips_per_caption"] == {"1": 1, "2": 1, "3": 1}
    assert (found["precision"], found["pairs_judged"]) == (pytest.approx(2 / 3), 3)
    assert found["frequent_captions"] == [["rain", 3], ["wind", 2]]
    about = {"name": "a", "rule": "b", "threshold": 0.5}
    assert ImprovementSetStatistics.from_json(found | about).captions_per_clip == {1: 1, 2: 1, 3: 1}


def test_skews_are_those_of_the_counts_and_need_three_values():
    counts = ImprovementSetCounts()
    for captions in (["x"], ["x", "y"], ["x"], ["x", "y", "z", "u"]):
        counts.add(captions, [])
    found = counts.to_json(dict.fromkeys("xyzu", ""))
    assert found["captions_per_clip_skewness"] == pytest.approx(skewness(np.array([1, 2, 1, 4])))
    assert found["clips_per_caption_skewness"] == pytest.approx(skewness(np.array([4, 2, 1, 1])))
    assert found["precision"] is None
    few = ImprovementSetCounts()
    few.add(["x"], [])
    assert few.to_json({"x": ""})["captions_per_clip_skewness"] is None


@pytest.mark.parametrize("share", [0.001, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("grid", [None, 20])
def test_the_quantile_is_exact_with_ties_and_however_the_shards_are_cut(share, grid):
    random = np.random.default_rng(5)
    values = random.uniform(-1, 1, 500).astype(np.float32)
    if grid:
        values = (np.round(values * grid) / grid).astype(np.float32)
    expected = np.sort(values)[::-1][int(np.ceil(share * 500)) - 1]
    for cuts in ([], [0, 100, 499]):
        assert quantile_similarity(lambda cuts=cuts: np.split(values, cuts), share) == expected


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="similarity 1 is NaN"):
        SimilarityHistogram.of(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="other edges"):
        SimilarityHistogram.of(np.zeros(1)).merge(SimilarityHistogram.of(np.zeros(1), EDGES_E[:-1]))
    with pytest.raises(ValueError, match="share 0"):
        quantile_similarity(lambda: [], 0)
    with pytest.raises(ValueError, match="no pairs to take a quantile of"):
        quantile_similarity(lambda: [], 0.5)
