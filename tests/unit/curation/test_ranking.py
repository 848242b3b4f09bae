import numpy as np
import pytest

from raysem.curation.ranking import rank_over_shards, rank_within


def slow_ranks(groups, similarity, tie_break):
    rows = list(zip(groups, similarity, tie_break, strict=True))
    return [1 + sum(g == group and (-s, t) < (-sim, tie) for g, s, t in rows) for group, sim, tie in rows]


def test_ranks_count_from_one_within_each_group():
    assert rank_within(np.array([7, 7, 3, 7]), np.array([0.1, 0.9, 0.5, 0.4])).tolist() == [3, 1, 1, 2]


def test_ranks_equal_the_slow_twin_with_many_ties():
    random = np.random.default_rng(0)
    groups, similarity = random.integers(5, size=200), random.integers(4, size=200) / 4
    ties = random.permutation(200)
    ranks = rank_within(groups, similarity, tie_break=ties)
    assert ranks.dtype == np.int32
    assert ranks.tolist() == slow_ranks(groups, similarity, ties)


def test_ranks_do_not_depend_on_the_order_when_ties_are_broken_by_an_id():
    random = np.random.default_rng(1)
    groups, similarity = random.integers(5, size=100), random.integers(3, size=100) / 3
    ids = np.array([f"caption-{i:03d}" for i in random.permutation(100)])
    order = random.permutation(100)
    expected = rank_within(groups, similarity, tie_break=ids)[order]
    np.testing.assert_array_equal(rank_within(groups[order], similarity[order], tie_break=ids[order]), expected)


def test_no_rows_have_no_ranks():
    assert rank_within(np.zeros(0, np.int64), np.zeros(0)).tolist() == []


def test_nan_has_no_rank():
    with pytest.raises(ValueError, match="similarity of row 1 is NaN"):
        rank_within(np.array([0, 0]), np.array([0.5, np.nan]))


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="one similarity per row"):
        rank_within(np.array([0, 0]), np.array([0.5]))


@pytest.mark.parametrize("limit", [1, 10, 57, 10_000])
@pytest.mark.parametrize("cuts", [[], [0, 100, 100], [13, 50, 120, 199]])
def test_ranks_over_shards_do_not_depend_on_the_cuts_or_the_memory(limit, cuts):
    random = np.random.default_rng(2)
    captions, similarity = random.integers(9, size=200), (random.integers(5, size=200) / 5).astype(np.float32)
    parts = list(zip(np.split(captions, cuts), np.split(similarity, cuts), strict=True))
    ranks = rank_over_shards(lambda: iter(parts), 12, max_pairs_in_memory=limit)
    assert [len(r) for r in ranks] == [len(c) for c, _ in parts]
    np.testing.assert_array_equal(np.concatenate(ranks), rank_within(captions, similarity))


def test_ranks_go_where_they_are_asked_to(tmp_path):
    out = np.lib.format.open_memmap(tmp_path / "ranks.npy", "w+", np.int32, (3,))
    rank_over_shards(lambda: [(np.array([1, 1, 0]), np.array([0.2, 0.3, 0.1]))], 2, ranks_out=out)
    assert out.tolist() == [2, 1, 1]
    with pytest.raises(ValueError, match=r"ranks_out: expected int32 \(3,\)"):
        rank_over_shards(lambda: [(np.array([1, 1, 0]), np.array([0.2, 0.3, 0.1]))], 2, ranks_out=np.zeros(2, np.int32))


def test_no_shards_have_no_ranks():
    assert rank_over_shards(lambda: [], 5) == []


def test_a_caption_outside_the_pool_is_named():
    with pytest.raises(ValueError, match="shard 0: caption indices up to 5, there are 5"):
        rank_over_shards(lambda: [(np.array([5]), np.array([0.1]))], 5)
