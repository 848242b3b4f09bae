from __future__ import annotations

import numpy as np
import pytest

from raysem.training.windows import BlockWindows


def test_the_windows_of_an_epoch_have_each_block_once_in_another_order_each_epoch():
    windows = BlockWindows(seed=1, block_rows=[1] * 10, window_blocks=4)
    epochs = [[windows.blocks(epoch, window).tolist() for window in range(3)] for epoch in range(3)]
    for epoch in epochs:
        assert [len(blocks) for blocks in epoch] == [4, 4, 2]
        assert sorted(block for blocks in epoch for block in blocks) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]
    again = BlockWindows(seed=1, block_rows=[1] * 10, window_blocks=4)
    assert again.blocks(2, 1).tolist() == epochs[2][1]


@pytest.mark.parametrize("window_blocks", [1, 3, 5, 6, 100])
def test_ends_are_sums_over_the_windows_so_far(window_blocks: int):
    amounts = np.arange(1, 11, dtype=np.float64) ** 2
    windows = BlockWindows(seed=3, block_rows=[1] * 10, window_blocks=window_blocks)
    num_windows = -(-10 // window_blocks)
    sums = [sum(amounts[block] for block in windows.blocks(7, window)) for window in range(num_windows)]
    np.testing.assert_array_equal(windows.ends(7, amounts), np.cumsum(sums))


def test_rows_of_blocks_are_numbered_through_the_table():
    windows = BlockWindows(seed=0, block_rows=[2, 3, 1], window_blocks=2)
    assert [rows.tolist() for rows in windows.rows(np.array([2, 0, 1]))] == [[5], [0, 1], [2, 3, 4]]
    with pytest.raises(ValueError, match="window_blocks must be at least 1, got 0"):
        BlockWindows(seed=0, block_rows=[1], window_blocks=0)
