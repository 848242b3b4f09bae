from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raysem.errors import ConfigError
from raysem.training.draws import draw_index, draw_seed, uniform_draws
from raysem.training.plan import BatchPlan, SampledPlan, StepPlan
from raysem.training.sampling import balanced_weights

BLOCKS = [7, 1, 20, 13, 5, 5, 5, 30, 2]
HEAVY_TAILED = 1 / (1 + np.random.default_rng(0).permutation(88)) ** 1.5


def sampled(window_blocks: int | None, **changes: Any) -> SampledPlan:
    defaults: dict[str, Any] = {"seed": 1, "weights": HEAVY_TAILED, "block_rows": BLOCKS, "batch_size": 8}
    return SampledPlan(**(defaults | {"window_blocks": window_blocks} | changes))


def rows_of_batches(plan: SampledPlan, batches: range) -> np.ndarray:
    return np.concatenate([plan.batch(k).rows_B for k in batches])


def first_at_least(running: list[float], value: float) -> int:
    """The first place whose running sum is above `value`."""
    return next(place for place, total in enumerate(running) if total > value)


def running_sum(values: Any) -> list[float]:
    total, sums = 0.0, []
    for value in values:
        total += float(value)
        sums.append(total)
    return sums


def slow_row_in_memory(weights: np.ndarray, seed: int, position: int) -> int:
    running = running_sum(weights)
    draw = uniform_draws(draw_seed("sampled", seed), np.array([position]))[0]
    return first_at_least(running, draw * running[-1])


def slow_row_of_windows(
    weights: np.ndarray, blocks: list[int], window_blocks: int, lanes: int, seed: int, position: int
) -> int:
    """The plan of one draw, written out: order of blocks, draws of each window, lane, row."""
    epoch, offset = divmod(position, len(weights))
    order = np.random.default_rng([draw_seed("blocks", seed), epoch]).permutation(len(blocks)).tolist()
    windows = [order[start : start + window_blocks] for start in range(0, len(blocks), window_blocks)]
    first_row = [0, *running_sum(blocks)]
    rows = [[int(first_row[b]) + r for b in window for r in range(blocks[b])] for window in windows]
    upto = running_sum(sum(float(weights[row]) for row in of_window) for of_window in rows)
    rounding = uniform_draws(draw_seed("rounding", seed), np.array([epoch]))[0]
    last_slots = [int(len(weights) * (value / upto[-1]) + rounding) for value in upto[:-1]] + [len(weights)]
    window = first_at_least([float(slot) for slot in last_slots], offset)
    lane = (position + draw_index(lanes, "turn", seed, epoch, window)) % lanes
    place = int(format(lane, f"0{lanes.bit_length() - 1}b")[::-1], 2) if lanes > 1 else 0
    draw = uniform_draws(draw_seed("sampled", seed), np.array([position]))[0]
    running = running_sum(weights[row] for row in rows[window])
    return rows[window][first_at_least(running, (place + draw) / lanes * running[-1])]


def test_draws_from_memory_equal_their_slow_twin():
    rows = rows_of_batches(sampled(None), range(40))
    assert rows.tolist() == [slow_row_in_memory(HEAVY_TAILED, 1, position) for position in range(320)]


@pytest.mark.parametrize(("window_blocks", "batch_size"), [(1, 8), (3, 16), (4, 5), (100, 12)])
def test_draws_from_windows_equal_their_slow_twin(window_blocks: int, batch_size: int):
    plan = sampled(window_blocks, batch_size=batch_size)
    lanes = {8: 8, 16: 16, 5: 1, 12: 4}[batch_size]
    rows = rows_of_batches(plan, range(300 // batch_size))
    expected = [
        slow_row_of_windows(HEAVY_TAILED, BLOCKS, window_blocks, lanes, 1, position) for position in range(len(rows))
    ]
    assert rows.tolist() == expected


@pytest.mark.parametrize("window_blocks", [None, 1, 3, 100])
def test_a_row_is_drawn_as_often_as_its_weight_says(window_blocks: int | None):
    """Chi-square of 88 rows over 400 epochs; a window's rounding and lanes only make it smaller."""
    plan = sampled(window_blocks, batch_size=88)
    counts = np.bincount(rows_of_batches(plan, range(400)), minlength=88)
    expected = 400 * 88 * HEAVY_TAILED / HEAVY_TAILED.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert counts.sum() == 400 * 88
    assert chi_square < 87 + 5 * np.sqrt(2 * 87)


@pytest.mark.parametrize("window_blocks", [1, 4, 16])
def test_a_table_in_order_of_its_classes_is_drawn_from_without_bias(window_blocks: int):
    """One block holds a class as rare as half of all draws: dealt whole to one lane of 16 it would get 1/16 of them."""
    labels = [["common"]] * 1580 + [["rare"]] * 20
    weights = balanced_weights(labels)
    plan = sampled(window_blocks, weights=weights, block_rows=[20] * 80, batch_size=64)
    rows = rows_of_batches(plan, range(5 * 25))
    assert len(rows) == 5 * 1600
    assert (rows >= 1580).mean() == pytest.approx(weights[1580:].sum() / weights.sum(), abs=0.01)


@pytest.mark.parametrize("window_blocks", [None, 8])
def test_classes_of_a_table_with_random_labels_are_drawn_as_their_weights_say(window_blocks: int | None):
    generator = np.random.default_rng(5)
    frequency = 1 / np.arange(1, 51) ** 1.2
    frequency /= frequency.sum()
    chosen = [generator.choice(50, size=1 + k % 3, replace=False, p=frequency) for k in range(3200)]
    weights = balanced_weights([[f"class {label}" for label in row] for row in chosen])
    has_NK = np.zeros((3200, 50))
    for row, row_labels in enumerate(chosen):
        has_NK[row, row_labels] = 1
    plan = sampled(window_blocks, weights=weights, block_rows=[40] * 80, batch_size=64)
    rows = rows_of_batches(plan, range(10 * 50))
    drawn_K, expected_K = has_NK[rows].sum(axis=0), len(rows) * (weights / weights.sum()) @ has_NK
    assert (abs(drawn_K - expected_K) / np.sqrt(expected_K)).max() < 4.5
    uniform_K = has_NK.sum(axis=0) / 3200
    assert drawn_K.max() / drawn_K.min() < uniform_K.max() / uniform_K.min() / 4  # not 1: labels come together


def test_the_draws_of_a_window_are_its_share_rounded_up_or_down():
    plan = sampled(2)
    for epoch in range(20):
        rows = np.concatenate([plan.batch(k).rows_B for k in range(epoch * 11, (epoch + 1) * 11)])
        block_of = np.repeat(np.arange(9), BLOCKS)
        order = np.random.default_rng([draw_seed("blocks", 1), epoch]).permutation(9)
        window_of_block = np.argsort(order) // 2
        shares = np.bincount(window_of_block[block_of], HEAVY_TAILED) / HEAVY_TAILED.sum() * 88
        counts = np.bincount(window_of_block[block_of[rows]], minlength=5)
        assert counts.sum() == 88
        assert (abs(counts - shares) < 1 + 1e-9).all()
        assert np.array_equal(np.sort(window_of_block[block_of[rows]]), window_of_block[block_of[rows]])


@pytest.mark.parametrize("window_blocks", [None, 4])
def test_a_batch_depends_on_nothing_that_was_asked_before(window_blocks: int | None):
    in_order = sampled(window_blocks)
    batches = [in_order.batch(k) for k in range(60)]
    for k in (59, 3, 31, 32, 0):
        fresh = sampled(window_blocks).batch(k)
        np.testing.assert_array_equal(fresh.rows_B, batches[k].rows_B)
        np.testing.assert_array_equal(fresh.epochs_B, batches[k].epochs_B)
    assert sampled(window_blocks, seed=2).batch(0).rows_B.tolist() != batches[0].rows_B.tolist()
    scaled = sampled(window_blocks, weights=HEAVY_TAILED * 4).batch(7)
    np.testing.assert_array_equal(scaled.rows_B, batches[7].rows_B)


@pytest.mark.parametrize("window_blocks", [None, 4])
def test_every_draw_has_a_number_of_its_own(window_blocks: int | None):
    plan = sampled(window_blocks)
    numbers = np.concatenate([plan.batch(k).epochs_B for k in range(40)])
    assert numbers.tolist() == list(range(320))
    assert plan.batches_per_epoch == 11.0
    assert plan.num_rows == 88


def test_draws_from_memory_do_not_depend_on_the_batch_size_or_the_blocks():
    small, large = sampled(None), sampled(None, batch_size=40, block_rows=[88])
    np.testing.assert_array_equal(rows_of_batches(small, range(20)), rows_of_batches(large, range(4)))


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("parts", [1, 2])
def test_each_rank_reads_its_own_blocks_where_they_weigh_the_same(world_size: int, parts: int):
    plan = sampled(16, weights=np.ones(64 * 32), block_rows=[32] * 64, batch_size=32, parts=parts)
    for epoch in range(2):
        readers: dict[int, set[int]] = {}
        for k in range(epoch * 64, (epoch + 1) * 64):
            for rank in range(world_size):
                for part in range(parts):
                    for row in plan.batch(k).part_of_rank(rank, world_size, part, parts).rows_B:
                        readers.setdefault(int(row) // 32, set()).add(rank)
        assert len(readers) == 64
        assert {len(ranks) for ranks in readers.values()} == {1}


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_two_ranks_share_at_most_the_blocks_that_a_cut_falls_into(world_size: int):
    """Windows of 32 blocks, whose weights differ by their random rows and stay below a rank's share."""
    weights = np.random.default_rng(2).pareto(3.0, size=64 * 40)
    plan = sampled(32, weights=weights, block_rows=[40] * 64, batch_size=64)
    readers: dict[int, set[int]] = {}
    for k in range(40):
        for rank in range(world_size):
            for row in plan.batch(k).part_of_rank(rank, world_size).rows_B:
                readers.setdefault(int(row) // 40, set()).add(rank)
    assert sum(len(ranks) - 1 for ranks in readers.values()) <= 2 * (world_size - 1)


def test_a_row_or_a_window_of_weight_zero_is_never_drawn():
    weights = HEAVY_TAILED.copy()
    weights[:41] = 0  # the first four blocks
    weights[-1] = weights[50] = 0
    for window_blocks in (None, 1, 4):
        rows = rows_of_batches(sampled(window_blocks, weights=weights), range(110))
        assert (weights[rows] > 0).all()
        assert len(set(rows.tolist())) > 30


def test_a_sampled_table_may_be_smaller_than_a_batch_and_serve_a_replay_set():
    plan = sampled(None, weights=np.array([1.0, 2.0, 1.0]), block_rows=[3])
    assert plan.batches_per_epoch == 3 / 8
    steps = StepPlan(
        BatchPlan(seed=0, block_rows=[50], batch_size=8), plan, seed=3, num_steps=20, replay_probability=0.5
    )
    replays = [steps.step(step).rows.epochs_B for step in range(20) if steps.step(step).source == 1]
    assert np.concatenate(replays).tolist() == list(range(8 * len(replays)))


def test_wrong_weights_and_sizes_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"88 rows need as many weights, got shape \(87,\)"):
        sampled(None, weights=np.ones(87))
    for wrong in (np.zeros(88), np.full(88, np.nan), np.r_[-1.0, np.ones(87)]):
        with pytest.raises(ValueError, match="finite, not negative, and not all 0"):
            sampled(None, weights=wrong)
    with pytest.raises(ConfigError, match="no rows"):
        sampled(None, weights=np.ones(0), block_rows=[])
    with pytest.raises(ConfigError, match="3 equal parts"):
        sampled(None, parts=3)
