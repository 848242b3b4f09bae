"""The blocks of a table too large for memory, in a new order each epoch, cut into windows that fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from raysem.training.draws import draw_seed

# Shapes: K blocks of a table, W windows.


class BlockWindows:
    """A table's blocks (its Parquet row groups), permuted in each epoch; a window is `window_blocks` of them in turn.

    Args:
        block_rows: rows of each block, in the table's order.
    """

    def __init__(self, *, seed: int, block_rows: Sequence[int], window_blocks: int):
        if window_blocks < 1:
            raise ValueError(f"window_blocks must be at least 1, got {window_blocks}")
        self._seed, self._window_blocks = seed, window_blocks
        self.block_rows_K = np.asarray(block_rows, dtype=np.int64)
        self.block_starts_K = np.concatenate([[0], np.cumsum(self.block_rows_K)[:-1]])
        self._order = lru_cache(maxsize=2)(self._permutation)  # where one epoch ends, the next begins

    def blocks(self, epoch: int, window: int) -> np.ndarray:
        """The blocks of one window of an epoch."""
        return self._order(epoch)[window * self._window_blocks : (window + 1) * self._window_blocks]

    def rows(self, blocks: np.ndarray) -> list[np.ndarray]:
        """The row numbers of each of these blocks."""
        return [self.block_starts_K[block] + np.arange(self.block_rows_K[block]) for block in blocks]

    def ends(self, epoch: int, amounts_K: np.ndarray) -> np.ndarray:
        """For an amount of each block, in the table's order: the sum up to each window's end in an epoch's (W)."""
        last = np.arange(self._window_blocks, len(amounts_K) + self._window_blocks, self._window_blocks) - 1
        return np.cumsum(amounts_K[self._order(epoch)])[np.minimum(last, len(amounts_K) - 1)]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([draw_seed("blocks", self._seed), epoch]).permutation(len(self.block_rows_K))
