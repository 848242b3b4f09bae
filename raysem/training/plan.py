"""Which rows make up the global batch of each step: a pure function of the seed, the tables' sizes and the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from raysem.errors import ConfigError
from raysem.training.draws import draw_index, draw_seed, uniform_draws
from raysem.training.windows import BlockWindows

# Shapes: B rows of a global batch, N rows of a table, K blocks of it.

MAX_LANES = 16
"""Ranks whose number divides this read disjoint row groups; others read some twice, with the same result."""


@dataclass(frozen=True)
class PlannedRows:
    """Row numbers in a source's table, and the epoch of each (it fixes the crop and the caption).

    A plan that draws rows more than once in an epoch gives each draw a number of its own instead.
    """

    rows_B: np.ndarray
    epochs_B: np.ndarray

    def part_of_rank(self, rank: int, world_size: int, part: int = 0, num_parts: int = 1) -> PlannedRows:
        """The interleaved slice of one rank from accumulation part `part`."""
        per_part = len(self.rows_B) // num_parts
        chosen = slice(part * per_part + rank, (part + 1) * per_part, world_size)
        return PlannedRows(self.rows_B[chosen], self.epochs_B[chosen])


class Plan(Protocol):
    """Global batches of one table, without end."""

    num_rows: int
    batch_size: int

    @property
    def batches_per_epoch(self) -> float:
        """Below 1 for a table with fewer rows than a batch."""
        ...

    def batch(self, index: int) -> PlannedRows:
        """Global batch number `index`, whatever was asked for before."""
        ...


class BatchPlan:
    """Global batches of one table, without end: epochs in which every row comes at most once, in a new order each.

    An epoch has floor(rows / batch_size) batches; the rows left over differ from epoch to epoch. A table with fewer
    rows than a batch is repeated within the batch.

    A table in memory is permuted as a whole (`window_blocks=None`). A larger one is read in order of its blocks (its
    Parquet row groups): the blocks are permuted, and rows are shuffled among the `window_blocks` blocks of a window,
    which is all that has to be at hand. Within a window the blocks are dealt to lanes, and slot p of an epoch takes a
    row of lane p mod lanes: ranks, which take every world_size-th slot, then read different blocks. The order does not
    depend on the number of ranks.

    Args:
        block_rows: rows of each block, in the table's order.
        parts: contrastive batches in one global batch (accumulation); lanes are aligned to them.
    """

    def __init__(
        self,
        *,
        seed: int,
        block_rows: Sequence[int],
        batch_size: int,
        window_blocks: int | None = None,
        parts: int = 1,
    ):
        self.num_rows, self.batch_size = int(sum(block_rows)), batch_size
        self._lanes = _num_lanes(self.num_rows, batch_size, parts)
        self._epoch_rows = max(self.num_rows // batch_size * batch_size, 0) or self.num_rows
        self._seed = seed
        self._windows = _windows(seed, block_rows, window_blocks)
        self._table_order = lru_cache(maxsize=2)(self._shuffled_table)
        self._window_order = lru_cache(maxsize=3)(self._shuffled_window)

    @property
    def batches_per_epoch(self) -> float:
        """Below 1 for a table with fewer rows than a batch."""
        return self._epoch_rows / self.batch_size

    def batch(self, index: int) -> PlannedRows:
        """Global batch number `index`."""
        epochs_B, offsets_B = np.divmod(_positions(index, self.batch_size), self._epoch_rows)
        rows_B = np.empty(self.batch_size, dtype=np.int64)
        for epoch, of_epoch in _places(epochs_B):
            rows_B[of_epoch] = self._rows_at(epoch, offsets_B[of_epoch])
        return PlannedRows(rows_B, epochs_B)

    def _rows_at(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
        if self._windows is None:
            return self._table_order(epoch)[offsets]
        starts = _starts(self._windows.ends(epoch, self._windows.block_rows_K))
        rows = np.empty(len(offsets), dtype=np.int64)
        for window, inside in _places(np.searchsorted(starts, offsets, side="right") - 1):
            first_slot = int(starts[window])
            rows[inside] = self._window_order(epoch, window, first_slot)[offsets[inside] - first_slot]
        return rows

    def _shuffled_table(self, epoch: int) -> np.ndarray:
        return self._generator(epoch, 0).permutation(self.num_rows)

    def _shuffled_window(self, epoch: int, window: int, first_slot: int) -> np.ndarray:
        """Rows of one window in the order of its slots."""
        assert self._windows is not None
        generator = self._generator(epoch, window)
        rows_of = self._windows.rows(self._windows.blocks(epoch, window))
        lanes = next(n for n in range(self._lanes, 0, -1) if self._lanes % n == 0 and n <= len(rows_of))
        dealt = [generator.permutation(np.concatenate(rows_of[lane::lanes])) for lane in range(lanes)]
        depth = min(len(rows) for rows in dealt)
        aligned = np.roll(np.stack([rows[:depth] for rows in dealt], axis=1), -(first_slot % lanes), axis=1)
        left_over = np.concatenate([rows[depth:] for rows in dealt])
        return np.concatenate([aligned.reshape(-1), generator.permutation(left_over)])

    def _generator(self, epoch: int, window: int) -> np.random.Generator:
        return np.random.default_rng([draw_seed("rows", self._seed), epoch, window])


class SampledPlan:
    """Global batches of one table, without end: rows drawn by weight, with replacement. An epoch is num_rows draws.

    In every epoch a row is expected num_rows x its share of the total weight times, whichever way the table is held:

    A table in memory is drawn from as a whole: draws are independent, and a function of the seed and their number.
    A larger one is drawn from window by window, as in `BatchPlan`. A window gets its share of the epoch's draws,
    rounded up or down at random, so that a light window's share is neither lost nor raised. In it the weights of the
    blocks are laid end to end and cut into lanes of equal weight, wherever in a block the cut may fall; slot p takes a
    row of lane p mod lanes, turned by a random number of lanes. Dealing whole blocks to lanes would leave each row
    with its lane's error: where one block holds the rare classes, it weighs more than all other lanes together.
    The lanes of a rank lie side by side: of the blocks of a window, at most world_size - 1 are read by two ranks, or by
    more if one weighs more than a rank's share.

    What is left of the windows: draws near in time come from the same blocks, and numbers of draws spread less than
    independent ones would. The rows do not depend on the number of ranks.

    `epochs_B` is the number of the draw, so that a row drawn twice is cropped, augmented and mixed in two ways.

    Args:
        weights: of each row (N), any scale, in the table's order; a row of weight 0 is never drawn.
        block_rows, window_blocks, parts: as in `BatchPlan`.
    """

    def __init__(
        self,
        *,
        seed: int,
        weights: np.ndarray,
        block_rows: Sequence[int],
        batch_size: int,
        window_blocks: int | None = None,
        parts: int = 1,
    ):
        self.num_rows, self.batch_size = int(sum(block_rows)), batch_size
        self._line = _side_by_side(_num_lanes(self.num_rows, batch_size, parts))
        self._seed = seed
        self._weights_N = np.asarray(weights, dtype=np.float64)
        if self._weights_N.shape != (self.num_rows,):
            raise ValueError(f"{self.num_rows} rows need as many weights, got shape {self._weights_N.shape}")
        if not np.isfinite(self._weights_N).all() or self._weights_N.min() < 0 or not self._weights_N.any():
            raise ValueError("weights must be finite, not negative, and not all 0")
        self._cumulative_N = np.cumsum(self._weights_N)
        block_ends_K = np.concatenate([[0], np.cumsum(block_rows)])
        self._block_weights_K = np.diff(np.concatenate([[0.0], self._cumulative_N])[block_ends_K])
        self._windows = _windows(seed, block_rows, window_blocks)
        self._window = lru_cache(maxsize=3)(self._rows_and_cumulative)

    @property
    def batches_per_epoch(self) -> float:
        """Below 1 for a table with fewer rows than a batch."""
        return self.num_rows / self.batch_size

    def batch(self, index: int) -> PlannedRows:
        """Global batch number `index`."""
        positions_B = _positions(index, self.batch_size)
        if self._windows is None:
            return PlannedRows(_at_shares(self._cumulative_N, self._draws(positions_B)), positions_B)
        rows_B = np.empty(self.batch_size, dtype=np.int64)
        for epoch, of_epoch in _places(positions_B // self.num_rows):
            rows_B[of_epoch] = self._rows_at(epoch, positions_B[of_epoch])
        return PlannedRows(rows_B, positions_B)

    def _draws(self, positions: np.ndarray) -> np.ndarray:
        return uniform_draws(draw_seed("sampled", self._seed), positions)

    def _rows_at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        starts = self._first_slots(epoch)
        rows = np.empty(len(positions), dtype=np.int64)
        for window, inside in _places(np.searchsorted(starts, positions % self.num_rows, side="right") - 1):
            rows_of, cumulative = self._window(epoch, window)
            turn = draw_index(len(self._line), "turn", self._seed, epoch, window)
            lanes = self._line[(positions[inside] + turn) % len(self._line)]
            shares = (lanes + self._draws(positions[inside])) / len(self._line)
            rows[inside] = rows_of[_at_shares(cumulative, shares)]
        return rows

    def _first_slots(self, epoch: int) -> np.ndarray:
        """The slot of an epoch at which each window starts. Rounding with one random offset keeps sum and means."""
        assert self._windows is not None
        ends = self._windows.ends(epoch, self._block_weights_K)
        offset = uniform_draws(draw_seed("rounding", self._seed), np.array([epoch]))
        slots = np.floor(self.num_rows * (ends / ends[-1]) + offset).astype(np.int64)
        return _starts(np.minimum(slots, self.num_rows))

    def _rows_and_cumulative(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        assert self._windows is not None
        rows = np.concatenate(self._windows.rows(self._windows.blocks(epoch, window)))
        return rows, np.cumsum(self._weights_N[rows])


def replay_draws(seed: int, num_steps: int, probability: float) -> np.ndarray:
    """For steps 0 .. num_steps - 1, whether the whole batch comes from the replay set; the same on every rank."""
    return uniform_draws(draw_seed("replay", seed), np.arange(num_steps)) < probability


@dataclass(frozen=True)
class PlannedStep:
    """The rows of one step and the source they come from: 0 the main one, 1 the replay set."""

    source: int
    rows: PlannedRows


class StepPlan:
    """Which source serves each step, and which of its batches: each source goes on where it left off."""

    def __init__(self, main: Plan, replay: Plan | None, *, seed: int, num_steps: int, replay_probability: float):
        if replay is None and replay_probability > 0:
            raise ConfigError(f"replay_probability: is {replay_probability}, but there is no replay set")
        self._plans = (main, replay)
        self._from_replay = replay_draws(seed, num_steps, replay_probability)
        self._replays_before = np.concatenate([[0], np.cumsum(self._from_replay)])

    @property
    def num_sources(self) -> int:
        """1, or 2 with a replay set."""
        return sum(plan is not None for plan in self._plans)

    def parts_of_rank(self, step: int, rank: int, world_size: int, num_parts: int) -> list[PlannedStep]:
        """One rank's rows of each part of step `step`."""
        planned = self.step(step)
        rows = (planned.rows.part_of_rank(rank, world_size, part, num_parts) for part in range(num_parts))
        return [PlannedStep(planned.source, of_part) for of_part in rows]

    def step(self, step: int) -> PlannedStep:
        """The rows of step `step`, counted from 0."""
        source = int(self._from_replay[step])
        before = int(self._replays_before[step])
        plan = self._plans[source]
        assert plan is not None
        return PlannedStep(source, plan.batch(before if source else step - before))


def _windows(seed: int, block_rows: Sequence[int], window_blocks: int | None) -> BlockWindows | None:
    if window_blocks is None:
        return None
    return BlockWindows(seed=seed, block_rows=block_rows, window_blocks=window_blocks)


def _num_lanes(num_rows: int, batch_size: int, parts: int) -> int:
    """Lanes to which the slots of a batch are dealt in turn: a power of two."""
    if num_rows == 0:
        raise ConfigError("training sources: no rows to train on")
    if batch_size < 1 or parts < 1 or batch_size % parts:
        raise ConfigError(f"batch_size: {batch_size} pairs cannot be cut into {parts} equal parts")
    return math.gcd(batch_size // parts, MAX_LANES)


def _side_by_side(num_lanes: int) -> np.ndarray:
    """Each lane's place on a line where lanes that are equal modulo 2, 4, 8 ... lie together: its bits reversed."""
    places = np.zeros(1, dtype=np.int64)
    while len(places) < num_lanes:
        places = np.concatenate([2 * places, 2 * places + 1])
    return places


def _at_shares(cumulative: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Where each share, 0..1, of the summed weights falls; never on a weight of 0."""
    last = np.searchsorted(cumulative, cumulative[-1])  # a share may round to 1
    return np.minimum(np.searchsorted(cumulative, shares * cumulative[-1], side="right"), last)


def _positions(index: int, batch_size: int) -> np.ndarray:
    return np.arange(index * batch_size, (index + 1) * batch_size)


def _places(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each distinct value, and where it stands."""
    for value in np.unique(values):
        yield int(value), values == value


def _starts(ends: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], ends[:-1]])
