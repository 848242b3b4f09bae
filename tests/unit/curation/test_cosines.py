import numpy as np
import pytest
import torch

from raysem.curation import cosines
from raysem.curation.cosines import Rows, exact_cosines, pairs_above

# Shapes: P pairs, D embedding width.


def unit_rows(num_rows: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_halving(left_PD: np.ndarray, right_PD: np.ndarray) -> np.ndarray:
    """The definition: products in float64, the upper half of a row added to the lower until one number is left."""
    values = []
    for left_D, right_D in zip(left_PD, right_PD, strict=True):
        row = [float(a) * float(b) for a, b in zip(left_D, right_D, strict=True)]
        while len(row) > 1:
            half = (len(row) + 1) // 2
            row = [row[i] + row[half + i] if half + i < len(row) else row[i] for i in range(half)]
        values.append(row[0])
    return np.array(values, np.float64).astype(np.float32)


@pytest.mark.parametrize("width", [1, 7, 100, 1024])
def test_the_exact_cosine_is_the_sum_by_halving_to_the_bit(width: int):
    left, right = unit_rows(150, width, 1), unit_rows(150, width, 2)
    index = torch.arange(150)
    found = exact_cosines(Rows(left, "audio"), Rows(right, "text"), index, index)
    np.testing.assert_array_equal(found.numpy().view(np.int32), by_halving(left, right).view(np.int32))


def test_a_sum_too_near_to_the_middle_of_two_numbers_is_made_by_halving(monkeypatch: pytest.MonkeyPatch):
    """a b + c d with c d half the last place of a b: any order of adding may round either way."""
    left = np.zeros((2, 64), np.float32)
    left[:, 0], left[:, 40] = 0.75, 2.0**-25
    right = np.zeros((2, 64), np.float32)
    right[:, 0], right[:, 40] = 1, 1
    right[1, 40] += 2.0**-10  # clearly above the middle
    folded = []
    original = cosines._folded
    monkeypatch.setattr(cosines, "_folded", lambda product_DP: folded.append(product_DP.shape) or original(product_DP))
    found = cosines._exact(left, right)
    assert folded == [(64, 1)]
    np.testing.assert_array_equal(found, by_halving(left, right))
    assert found[1] > found[0]


def test_opposite_and_orthogonal_rows_have_exactly_their_cosine():
    eye = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(cosines._exact(eye, np.roll(eye, 1, axis=0)), np.zeros(4))
    np.testing.assert_array_equal(cosines._exact(eye, -eye), -np.ones(4))


@pytest.mark.parametrize("num_pairs", [0, 1, 127, 128, 129, 700])
def test_pairs_above_a_threshold_are_those_of_all_cosines_in_the_order_given(num_pairs: int):
    left, right = unit_rows(90, 24, 1), unit_rows(80, 24, 2)
    random = np.random.default_rng(3)
    rows, columns = random.integers(90, size=num_pairs), random.integers(80, size=num_pairs)
    audio, text = Rows(left, "audio"), Rows(right, "text")
    cosine_P = by_halving(left[rows], right[columns])
    threshold = float(cosine_P[num_pairs // 2]) if num_pairs else 0.0  # that of a pair, which is kept
    kept = np.flatnonzero(cosine_P >= threshold)
    found = pairs_above(audio, text, torch.from_numpy(rows), torch.from_numpy(columns), threshold)
    assert [column.dtype for column in found] == [torch.int64, torch.int64, torch.float32]
    for column, expected in zip(found, (rows[kept], columns[kept], cosine_P[kept]), strict=True):
        np.testing.assert_array_equal(column.numpy(), expected)


def test_blocks_of_read_only_rows_are_copies(recwarn: pytest.WarningsRecorder):
    rows = unit_rows(4, 8, 1)
    rows.flags.writeable = False
    block = Rows(rows, "audio").block(1, 3)
    assert block.numpy().flags.writeable
    np.testing.assert_array_equal(block.numpy(), rows[1:3])
    assert not recwarn.list
