import json

import numpy as np
import pyarrow as pa
import pytest

from raysem.curation.hubness import skewness
from raysem.curation.statistics import PairStatistics, SimilarityHistogram, merged, quantile_similarity

THRESHOLDS = [0.5, 0.7, 0.75, 0.9]


def make_columns(num_pairs: int = 400, seed: int = 0):
    random = np.random.default_rng(seed)
    clip = np.sort(random.integers(40, size=num_pairs))
    caption = random.integers(25, size=num_pairs)
    similarity = random.uniform(0.4, 1, num_pairs).astype(np.float32)
    correct = random.integers(3, size=num_pairs)
    return clip, caption, similarity, [None if c == 2 else bool(c) for c in correct]


def statistics_of(columns, select, num_clips):
    clip, caption, similarity, correct = columns
    return PairStatistics.of(
        [f"clip{i}" for i in clip[select]],
        [f"cap{i}" for i in caption[select]],
        similarity[select],
        num_clips=num_clips,
        is_correct=[value for value, taken in zip(correct, select, strict=True) if taken],
    )


def test_counts_at_thresholds_of_three_decimals_are_exact():
    steps = np.arange(-1000, 1001)
    at = np.array([round(s / 1000, 3) for s in steps], np.float32)
    values = np.concatenate([at, np.nextafter(at, np.float32(-2))])
    histogram = SimilarityHistogram.of(values)
    assert len(histogram) == len(values)
    for threshold in (0.7, 0.75, 0.601, 0.0, -0.333, 0.999):
        assert histogram.num_above(threshold) == int((values >= np.float32(threshold)).sum())


def test_rounding_past_one_is_counted_as_one():
    assert SimilarityHistogram.of(np.array([1.0000001, -1.0000001], np.float32)).num_above(1.0) == 1


def test_statistics_of_shards_merge_to_those_of_the_whole_in_any_order():
    columns = make_columns()
    whole = statistics_of(columns, np.ones(400, bool), 45)
    parts = [statistics_of(columns, columns[0] % 3 == part, clips) for part, clips in ((0, 16), (1, 15), (2, 14))]
    for order in ([0, 1, 2], [2, 1, 0]):
        total = merged(parts[i] for i in order)
        assert total.to_json() == whole.to_json()
        assert total.summary(THRESHOLDS, num_captions=30) == whole.summary(THRESHOLDS, num_captions=30)


def test_statistics_survive_json():
    whole = statistics_of(make_columns(), np.ones(400, bool), 45)
    back = PairStatistics.from_json(json.loads(json.dumps(whole.to_json())))
    assert back.to_json() == whole.to_json()
    assert PairStatistics.from_json(PairStatistics().to_json()).to_json() == PairStatistics().to_json()


def test_the_summary_equals_the_slow_twin():
    clip, caption, similarity, correct = columns = make_columns()
    summary = statistics_of(columns, np.ones(400, bool), 45).summary(THRESHOLDS, num_captions=30, num_hubs=2)
    per_clip = [int((clip == i).sum()) for i in range(45)]
    per_caption = [int((caption == i).sum()) for i in range(30)]
    assert summary["pairs"] == 400
    assert summary["clips"] == 45
    assert summary["clips_with_pairs"] == sum(count > 0 for count in per_clip)
    assert summary["captions_with_pairs"] == sum(count > 0 for count in per_caption)
    assert summary["captions_per_clip_skew"] == pytest.approx(skewness(np.array(per_clip)))
    assert summary["clips_per_caption_skew"] == pytest.approx(skewness(np.array(per_caption)))
    assert summary["hubs"][0]["clips"] == max(per_caption)
    for threshold in THRESHOLDS:
        above = similarity >= np.float32(threshold)
        judged = [value for value, is_above in zip(correct, above, strict=True) if is_above and value is not None]
        row = summary["by_threshold"][f"{threshold:g}"]
        assert row["pairs"] == above.sum()
        assert row["keep_rate"] == pytest.approx(above.mean())
        assert row["judged"] == len(judged)
        assert row["precision"] == pytest.approx(np.mean(judged))
    json.dumps(summary)


def test_precision_is_unknown_where_nothing_was_judged():
    statistics = PairStatistics.of(pa.array(["a"]), pa.array(["x"]), np.array([0.8]), num_clips=1)
    assert statistics.precision([0.5]) == {0.5: None}
    judged = PairStatistics.of(["a"], ["x"], np.array([0.8]), num_clips=1, is_correct=np.array([True]))
    assert judged.precision([0.5, 0.9]) == {0.5: 1.0, 0.9: None}


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
    with pytest.raises(ValueError, match="2 clips, 1 captions, 1 similarities"):
        PairStatistics.of(["a", "b"], ["x"], np.array([0.5]), num_clips=2)
    with pytest.raises(ValueError, match="pairs of 2 clips in a pool of 1"):
        PairStatistics.of(["a", "b"], ["x", "x"], np.array([0.5, 0.5]), num_clips=1)
    with pytest.raises(ValueError, match="share 0"):
        quantile_similarity(lambda: [], 0)
    with pytest.raises(ValueError, match="no pairs to take a quantile of"):
        quantile_similarity(lambda: [], 0.5)
