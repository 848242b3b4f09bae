from __future__ import annotations

import numpy as np
import pytest

from raysem.errors import ConfigError
from raysem.training.plan import BatchPlan, StepPlan, replay_draws


def epoch_rows(plan: BatchPlan, epoch: int) -> np.ndarray:
    per_epoch = int(plan.batches_per_epoch)
    return np.concatenate([plan.batch(k).rows_B for k in range(epoch * per_epoch, (epoch + 1) * per_epoch)])


@pytest.mark.parametrize("window_blocks", [None, 1, 3, 100])
def test_every_epoch_has_each_row_once_less_the_last_part_of_a_batch(window_blocks: int | None):
    blocks = [7, 1, 20, 13, 5, 5, 5, 30, 2]
    plan = BatchPlan(seed=1, block_rows=blocks, batch_size=8, window_blocks=window_blocks)
    for epoch in range(3):
        rows = epoch_rows(plan, epoch)
        assert len(rows) == 88 // 8 * 8
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(range(88))
    assert epoch_rows(plan, 0).tolist() != epoch_rows(plan, 1).tolist()


def test_the_rows_left_over_differ_from_epoch_to_epoch():
    plan = BatchPlan(seed=1, block_rows=[11], batch_size=4)
    left_over = [frozenset(range(11)) - set(epoch_rows(plan, epoch).tolist()) for epoch in range(8)]
    assert len(set(left_over)) > 3


def test_a_batch_depends_on_nothing_that_was_asked_before():
    blocks = [16] * 40
    asked_in_order = BatchPlan(seed=5, block_rows=blocks, batch_size=16, window_blocks=4)
    in_order = [asked_in_order.batch(k) for k in range(100)]
    for k in (99, 3, 57, 58, 0):
        fresh = BatchPlan(seed=5, block_rows=blocks, batch_size=16, window_blocks=4).batch(k)
        np.testing.assert_array_equal(fresh.rows_B, in_order[k].rows_B)
        np.testing.assert_array_equal(fresh.epochs_B, in_order[k].epochs_B)
    other = BatchPlan(seed=6, block_rows=blocks, batch_size=16, window_blocks=4).batch(0)
    assert other.rows_B.tolist() != in_order[0].rows_B.tolist()


def test_ranks_share_a_batch_without_overlap_whatever_their_number():
    batch = BatchPlan(seed=0, block_rows=[64], batch_size=16).batch(2)
    for world_size in (1, 2, 4, 8):
        for num_parts in (1, 2):
            joined = np.concatenate(
                [batch.part_of_rank(r, world_size, p, num_parts).rows_B
                 for p in range(num_parts) for r in range(world_size)]
            )  # fmt: skip
            assert sorted(joined.tolist()) == sorted(batch.rows_B.tolist())
    half = {r: set(batch.part_of_rank(r, 2, 0, 2).rows_B.tolist()) for r in range(2)}
    assert half[0] | half[1] == set(batch.rows_B[:8].tolist())


def test_each_rank_reads_its_own_blocks():
    blocks, world_size = [32] * 64, 4
    plan = BatchPlan(seed=2, block_rows=blocks, batch_size=32, window_blocks=16)
    readers: dict[int, set[int]] = {}
    for k in range(int(plan.batches_per_epoch)):
        for rank in range(world_size):
            for row in plan.batch(k).part_of_rank(rank, world_size).rows_B:
                readers.setdefault(int(row) // 32, set()).add(rank)
    assert {len(ranks) for ranks in readers.values()} == {1}


def test_a_window_is_all_that_has_to_be_at_hand():
    plan = BatchPlan(seed=2, block_rows=[10] * 60, batch_size=10, window_blocks=6)
    blocks_of_window = [
        {int(row) // 10 for k in range(w * 6, (w + 1) * 6) for row in plan.batch(k).rows_B} for w in range(10)
    ]
    assert all(len(blocks) == 6 for blocks in blocks_of_window)
    assert set.union(*blocks_of_window) == set(range(60))


def test_a_table_smaller_than_a_batch_is_repeated_in_it():
    plan = BatchPlan(seed=0, block_rows=[3], batch_size=8)
    first, second = plan.batch(0), plan.batch(1)
    assert sorted(np.bincount(np.concatenate([first.rows_B, second.rows_B])[:15], minlength=3)) == [5, 5, 5]
    assert first.epochs_B.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_replay_draws_have_their_probability_and_do_not_depend_on_the_number_of_steps():
    draws = replay_draws(7, 20_000, 0.3)
    assert abs(draws.mean() - 0.3) < 0.01
    assert replay_draws(7, 50, 0.3).tolist() == draws[:50].tolist()
    assert not replay_draws(7, 1000, 0.0).any()
    assert replay_draws(7, 1000, 1.0).all()
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(draws, replay_draws(8, 20_000, 0.3))[0, 1]) < 0.03


def test_each_source_goes_on_where_it_left_off():
    main = BatchPlan(seed=0, block_rows=[100], batch_size=10)
    replay = BatchPlan(seed=1, block_rows=[50], batch_size=10)
    plan = StepPlan(main, replay, seed=3, num_steps=40, replay_probability=0.5)
    counts = [0, 0]
    for step in range(40):
        planned = plan.step(step)
        expected = (main, replay)[planned.source].batch(counts[planned.source])
        np.testing.assert_array_equal(planned.rows.rows_B, expected.rows_B)
        counts[planned.source] += 1
    assert min(counts) > 8


def test_wrong_plans_say_what_is_wrong():
    with pytest.raises(ConfigError, match="no rows"):
        BatchPlan(seed=0, block_rows=[], batch_size=4)
    with pytest.raises(ConfigError, match="3 equal parts"):
        BatchPlan(seed=0, block_rows=[9], batch_size=8, parts=3)
    with pytest.raises(ConfigError, match="no replay set"):
        StepPlan(BatchPlan(seed=0, block_rows=[9], batch_size=3), None, seed=0, num_steps=1, replay_probability=0.5)
