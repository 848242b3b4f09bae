"""Which rows make up the global batch of each step: a pure function of the seed, the tables' sizes and the step."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysem.errors import ConfigError
from raysem.training.draws import draw_seed, uniform_draws

# Shapes: B rows of a global batch.

MAX_LANES = 16
"""Ranks whose number divides this read disjoint row groups; others read some twice, with the same result."""


@dataclass(frozen=True)
class PlannedRows:
    """Row numbers in a source's table, and the epoch of each (it fixes the crop and the caption)."""

    rows_B: np.ndarray
    epochs_B: np.ndarray

    def part_of_rank(self, rank: int, world_size: int, part: int = 0, num_parts: int = 1) -> PlannedRows:
        """The interleaved slice of one rank from accumulation part `part`."""
        per_part = len(self.rows_B) // num_parts
        chosen = slice(part * per_part + rank, (part + 1) * per_part, world_size)
        return PlannedRows(self.rows_B[chosen], self.epochs_B[chosen])


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
        self.num_rows = int(sum(block_rows))
        if self.num_rows == 0:
            raise ConfigError("training sources: no rows to train on")
        if batch_size < 1 or parts < 1 or batch_size % parts:
            raise ConfigError(f"batch_size: {batch_size} pairs cannot be cut into {parts} equal parts")
        self.seed, self.batch_size, self.window_blocks = seed, batch_size, window_blocks
        self._lanes = math.gcd(batch_size // parts, MAX_LANES)
        self._block_rows = np.asarray(block_rows, dtype=np.int64)
        self._block_starts = np.concatenate([[0], np.cumsum(self._block_rows)[:-1]])
        self._epoch_rows = max(self.num_rows // batch_size * batch_size, 0) or self.num_rows
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    @property
    def batches_per_epoch(self) -> float:
        """Below 1 for a table with fewer rows than a batch."""
        return self._epoch_rows / self.batch_size

    def batch(self, index: int) -> PlannedRows:
        """Global batch number `index`."""
        positions_B = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        epochs_B, offsets_B = np.divmod(positions_B, self._epoch_rows)
        rows_B = np.empty(self.batch_size, dtype=np.int64)
        for epoch in np.unique(epochs_B):
            of_epoch = epochs_B == epoch
            rows_B[of_epoch] = self._rows_at(int(epoch), offsets_B[of_epoch])
        return PlannedRows(rows_B, epochs_B)

    def _rows_at(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
        if self.window_blocks is None:
            return self._window(epoch, 0)[offsets]
        starts = self._epoch(epoch)[1]
        windows = np.searchsorted(starts, offsets, side="right") - 1
        rows = np.empty(len(offsets), dtype=np.int64)
        for window in np.unique(windows):
            inside = windows == window
            rows[inside] = self._window(epoch, int(window))[offsets[inside] - starts[window]]
        return rows

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the blocks, and the first slot of each window."""
        if epoch not in self._epochs:
            assert self.window_blocks is not None
            order = np.random.default_rng([draw_seed("blocks", self.seed), epoch]).permutation(len(self._block_rows))
            ends = np.cumsum(self._block_rows[order])
            starts = np.concatenate([[0], ends[self.window_blocks - 1 : -1 : self.window_blocks]])
            _keep(self._epochs, epoch, (order, starts), most=2)
        return self._epochs[epoch]

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """Rows of one window in the order of its slots."""
        key = (epoch, window)
        if key not in self._windows:
            generator = np.random.default_rng([draw_seed("rows", self.seed), epoch, window])
            if self.window_blocks is None:
                _keep(self._windows, key, generator.permutation(self.num_rows), most=2)
            else:
                order, starts = self._epoch(epoch)
                blocks = order[window * self.window_blocks : (window + 1) * self.window_blocks]
                _keep(self._windows, key, self._shuffled(blocks, int(starts[window]), generator), most=3)
        return self._windows[key]

    def _shuffled(self, blocks: np.ndarray, first_slot: int, generator: np.random.Generator) -> np.ndarray:
        rows_of = [self._block_starts[block] + np.arange(self._block_rows[block]) for block in blocks]
        lanes = next(n for n in range(self._lanes, 0, -1) if self._lanes % n == 0 and n <= len(blocks))
        dealt = [generator.permutation(np.concatenate(rows_of[lane::lanes])) for lane in range(lanes)]
        depth = min(len(rows) for rows in dealt)
        aligned = np.roll(np.stack([rows[:depth] for rows in dealt], axis=1), -(first_slot % lanes), axis=1)
        left_over = np.concatenate([rows[depth:] for rows in dealt])
        return np.concatenate([aligned.reshape(-1), generator.permutation(left_over)])


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

    def __init__(
        self, main: BatchPlan, replay: BatchPlan | None, *, seed: int, num_steps: int, replay_probability: float
    ):
        if replay is None and replay_probability > 0:
            raise ConfigError(f"replay_probability: is {replay_probability}, but there is no replay set")
        self._plans = (main, replay)
        self._from_replay = replay_draws(seed, num_steps, replay_probability)
        self._replays_before = np.concatenate([[0], np.cumsum(self._from_replay)])

    def step(self, step: int) -> PlannedStep:
        """The rows of step `step`, counted from 0."""
        source = int(self._from_replay[step])
        before = int(self._replays_before[step])
        plan = self._plans[source]
        assert plan is not None
        return PlannedStep(source, plan.batch(before if source else step - before))


def _keep(kept: OrderedDict, key: object, value: object, *, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
