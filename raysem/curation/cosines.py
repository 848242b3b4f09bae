"""The cosine of given pairs of rows: exact and the same to the bit everywhere, or rough and cheap. See `matching`."""

# Shapes: D embedding width, P pairs.

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from raysem.curation.sketches import NORM_TOLERANCE

Array = np.ndarray | Tensor
Pairs = tuple[Tensor, Tensor, Tensor]
"""Clip index (int64), caption index (int64), cosine (float32)."""
ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)

PAIRS_AT_ONCE = 512
"""On CPUs. Rows of more pairs do not stay in the cache; with fewer, two threads wait for the interpreter and not for
memory: at width 1024, 128 takes 0.95 s where 512 takes 0.61 and 2048 0.75."""
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
        return torch.from_numpy(rows if rows.flags.writeable else rows.copy())  # torch warns of read-only memory

    def take(self, index_P: Tensor) -> Tensor:
        if self._host is not None:
            return torch.from_numpy(self.take_host(index_P.numpy()))
        assert self._tensor is not None
        return self._tensor.index_select(0, index_P).float()

    def take_host(self, index_P: np.ndarray) -> np.ndarray:
        """Of rows on the CPU."""
        assert self._host is not None
        return self._host.take(index_P, axis=0).astype(np.float32, copy=False)

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
    parts = []
    if audio.device.type == "cpu":
        for left_P, right_P in _chunks(audio_index, caption_index, PAIRS_AT_ONCE):
            cosine_P = _exact(audio.take_host(left_P.numpy()), text.take_host(right_P.numpy()))
            parts.append(torch.from_numpy(cosine_P))
    else:
        for left_P, right_P in _chunks(audio_index, caption_index, CUDA_PAIRS_AT_ONCE):
            product_DP = (audio.take(left_P).double() * text.take(right_P).double()).T.contiguous()
            parts.append(_folded(product_DP).float())
    return torch.cat(parts) if parts else torch.empty(0, device=audio.device)


def pairs_above(audio: Rows, text: Rows, audio_index: Tensor, caption_index: Tensor, threshold: float) -> Pairs:
    """Those of the pairs whose exact cosine is at least `threshold`, and the cosine; in the order given.

    A float32 product sorts out most of the others, at a third of the cost.
    """
    likely_from = threshold - 1e-5 - audio.width * 2.0**-22  # float32 sums, in whatever order
    found: list[Pairs] = [(audio_index[:0], caption_index[:0], torch.empty(0, device=audio.device))]
    if audio.device.type == "cpu":
        for left_P, right_P in _chunks(audio_index, caption_index, PAIRS_AT_ONCE):
            left_PD, right_PD = audio.take_host(left_P.numpy()), text.take_host(right_P.numpy())
            likely = np.flatnonzero(np.vecdot(left_PD, right_PD) >= likely_from)
            if len(likely):
                exact = _exact(left_PD[likely], right_PD[likely])
                above = np.flatnonzero(exact >= threshold)
                index_P = torch.from_numpy(likely[above])
                found.append((left_P[index_P], right_P[index_P], torch.from_numpy(exact[above])))
    else:
        for left_P, right_P in _chunks(audio_index, caption_index, CUDA_PAIRS_AT_ONCE):
            likely_P = (audio.take(left_P) * text.take(right_P)).sum(dim=1) >= likely_from
            left_P, right_P = left_P[likely_P], right_P[likely_P]
            cosine_P = exact_cosines(audio, text, left_P, right_P)
            above_P = cosine_P >= threshold
            found.append((left_P[above_P], right_P[above_P], cosine_P[above_P]))
    clips, captions, cosines = zip(*found, strict=True)
    return torch.cat(clips), torch.cat(captions), torch.cat(cosines)


def _chunks(audio_index: Tensor, caption_index: Tensor, size: int) -> zip[tuple[Tensor, Tensor]]:
    if not len(audio_index):
        return zip((), (), strict=True)
    return zip(audio_index.split(size), caption_index.split(size), strict=True)


def _exact(left_PD: np.ndarray, right_PD: np.ndarray) -> np.ndarray:
    """float32 (P,).

    A sum in float64 in any order lies within `lost` of the one by halving, so where both ends of that span round to
    the same float32, that is the value; one pair of 100,000 has to be summed by halving itself.
    """
    left_PD, right_PD = left_PD.astype(np.float64), right_PD.astype(np.float64)
    sum_P = np.vecdot(left_PD, right_PD)
    width = left_PD.shape[1]
    lost = 2 * (width + 64) * 2.0**-53  # twice what the terms, whose sizes sum up to 1.002, can lose in both sums
    cosine_P = (sum_P - lost).astype(np.float32)
    unsure = np.flatnonzero(cosine_P != (sum_P + lost).astype(np.float32))
    if len(unsure):
        cosine_P[unsure] = _folded(np.ascontiguousarray((left_PD[unsure] * right_PD[unsure]).T))
    return cosine_P


def _folded(product_DP: ArrayT) -> ArrayT:
    """The sum over the first axis: its upper half is added to the lower until one row is left."""
    width = len(product_DP)
    while width > 1:
        half = (width + 1) // 2
        product_DP[: width - half] += product_DP[half:width]
        width = half
    return product_DP[0]
