"""The cosine of given pairs of rows: exact and the same to the bit everywhere, or rough and cheap. See `matching`."""

# Shapes: D embedding width, P pairs.

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from raysem.curation.sketches import NORM_TOLERANCE

Array = np.ndarray | Tensor
ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)

PAIRS_AT_ONCE = 128  # a chunk of products stays in a core's cache
PAIRS_PER_TASK = 8 * PAIRS_AT_ONCE
CUDA_PAIRS_AT_ONCE = 32_768


class Rows:
    """Rows of an array in numpy (also memory-mapped) or torch, handed out as float32 a few at a time."""

    def __init__(self, array: Array, name: str):
        if not isinstance(array, np.ndarray | Tensor) or array.ndim != 2:
            found = tuple(array.shape) if isinstance(array, np.ndarray | Tensor) else type(array).__name__
            raise ValueError(f"{name} embeddings: expected a numpy or torch array (rows, width), got {found}")
        floating = array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"
        if not floating:
            raise ValueError(f"{name} embeddings: expected floating point numbers, got {array.dtype}")
        self.is_torch = isinstance(array, Tensor)
        self.device = array.device if isinstance(array, Tensor) else torch.device("cpu")
        self.width = array.shape[1]
        self._name = name
        self._tensor = array.detach() if isinstance(array, Tensor) else None
        if isinstance(array, Tensor) and self.device.type == "cpu":
            array = (array.detach().float() if array.dtype == torch.bfloat16 else array.detach()).numpy()
        self._host = array if isinstance(array, np.ndarray) else None
        self._length = len(array)

    def __len__(self) -> int:
        return self._length

    def block(self, start: int, stop: int) -> Tensor:
        if self._host is None:
            assert self._tensor is not None
            return self._tensor[start:stop].float()
        rows = np.ascontiguousarray(self._host[start:stop], dtype=np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of read-only memory; nothing is written to it here
            return torch.from_numpy(rows)

    def take(self, index_P: Tensor) -> Tensor:
        if self._host is not None:
            return torch.from_numpy(self.take_host(index_P.numpy()))
        assert self._tensor is not None
        return self._tensor.index_select(0, index_P).float()

    def take_host(self, index_P: np.ndarray) -> np.ndarray:
        """Of rows on the CPU."""
        assert self._host is not None
        return self._host[index_P].astype(np.float32, copy=False)

    def sample(self, size: int) -> Tensor:
        """Up to `size` rows, evenly placed."""
        return self.take(torch.arange(0, len(self), max(len(self) // size, 1), device=self.device)[:size])

    def check(self, rows_at_once: int) -> None:
        """Every row finite and of unit length."""
        for start in range(0, len(self), rows_at_once):
            norm = torch.linalg.vector_norm(self.block(start, start + rows_at_once), dim=1)
            wrong = ~((norm - 1).abs() <= NORM_TOLERANCE)  # NaN is wrong too
            if wrong.any():
                row = int(wrong.int().argmax())
                raise ValueError(
                    f"{self._name} embeddings: row {start + row} has length {norm[row].item():.6g}, expected 1 "
                    f"(within {NORM_TOLERANCE}); divide each row by its norm"
                )


def exact_cosines(audio: Rows, text: Rows, audio_index: Tensor, caption_index: Tensor) -> Tensor:
    """float32 (P,): products in float64, summed by halving, rounded once."""
    if audio.device.type == "cpu":
        return _on_host(_exact, audio, text, audio_index, caption_index)
    parts = []
    for left, right in _chunks(audio_index, caption_index):
        product_DP = (audio.take(left).double() * text.take(right).double()).T.contiguous()
        parts.append(_folded(product_DP).float())
    return torch.cat(parts) if parts else torch.empty(0, device=audio.device)


def rough_cosines(audio: Rows, text: Rows, audio_index: Tensor, caption_index: Tensor) -> Tensor:
    """float32 (P,) at a third of the cost: summed in float32, in an order that depends on the machine."""
    if audio.device.type == "cpu":
        return _on_host(_rough, audio, text, audio_index, caption_index)
    parts = [(audio.take(left) * text.take(right)).sum(dim=1) for left, right in _chunks(audio_index, caption_index)]
    return torch.cat(parts) if parts else torch.empty(0, device=audio.device)


def _chunks(audio_index: Tensor, caption_index: Tensor) -> zip[tuple[Tensor, Tensor]]:
    if not len(audio_index):
        return zip((), (), strict=True)
    return zip(audio_index.split(CUDA_PAIRS_AT_ONCE), caption_index.split(CUDA_PAIRS_AT_ONCE), strict=True)


def _on_host(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    audio: Rows,
    text: Rows,
    audio_index: Tensor,
    caption_index: Tensor,
) -> Tensor:
    """`function` over chunks of pairs, by as many threads as torch may use.

    numpy and Python's threads, not torch's: the chunks are small, and OpenMP's barriers after each small step take a
    hundred times as long as the step when other processes have the cores.
    """
    left_P, right_P = audio_index.numpy(), caption_index.numpy()
    result_P = np.empty(len(left_P), np.float32)

    def settle(begin: int) -> None:
        for start in range(begin, min(begin + PAIRS_PER_TASK, len(left_P)), PAIRS_AT_ONCE):
            chunk = slice(start, start + PAIRS_AT_ONCE)
            result_P[chunk] = function(audio.take_host(left_P[chunk]), text.take_host(right_P[chunk]))

    tasks = range(0, len(left_P), PAIRS_PER_TASK)
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for begin in tasks:
            settle(begin)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(settle, tasks))
    return torch.from_numpy(result_P)


def _rough(left_PD: np.ndarray, right_PD: np.ndarray) -> np.ndarray:
    return np.einsum("pd,pd->p", left_PD, right_PD)


def _exact(left_PD: np.ndarray, right_PD: np.ndarray) -> np.ndarray:
    product_PD = left_PD.astype(np.float64)
    product_PD *= right_PD.astype(np.float64)
    width = product_PD.shape[1]
    while width > 32:  # long rows are added fastest as they lie, short ones across
        half = (width + 1) // 2
        product_PD[:, : width - half] += product_PD[:, half:width]
        width = half
    return _folded(np.ascontiguousarray(product_PD[:, :width].T))


def _folded(product_DP: ArrayT) -> ArrayT:
    """The sum over the first axis: its upper half is added to the lower until one row is left."""
    width = len(product_DP)
    while width > 1:
        half = (width + 1) // 2
        product_DP[: width - half] += product_DP[half:width]
        width = half
    return product_DP[0]
