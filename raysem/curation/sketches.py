"""Upper bounds of many cosines at once: which pairs of a tile may reach a threshold. `matching` settles them.

Two reductions, each with a bound that is proved, not tuned, so that no pair can be lost:
  precision   int8 on CPUs with VNNI or AMX units (what rounding takes from each row is measured, and Cauchy-Schwarz
              bounds what that does to a cosine); bf16 on CPUs with such units and on CUDA (rounding two unit vectors
              moves a cosine by at most 2^-8, rounding the result by 2^-9 |s|); fp32 elsewhere.
  projection  onto the leading directions of both sets plus one number for the rest: a.t <= a'.t' + |rest_a| |rest_t|,
              which is again a product of unit rows, of a quarter of the width or less. Embeddings fill few of their
              dimensions, so that this often leaves hardly more candidates; a sample decides whether it pays.
"""

# Shapes: A clips, C captions, D embedding width, K width after projection, P pairs, a and c rows of a tile.

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Precision = Literal["int8", "bf16", "fp32"]

NORM_TOLERANCE = 1e-3  # float16 embeddings that were normalised before rounding are within 5e-4
INT8_ERROR_LIMIT = 0.02  # past it (a few dimensions dwarf the others) the rechecks cost more than bf16 does
REST_SLACK = 2e-5  # squared: float32 rounding of a row's length and of its projection

# Measured on one core of an AMD Zen 4, in ns; only their ratios matter, and they change nothing but the speed.
PRODUCT_COST = {"int8": 4.7e-3, "bf16": 9.8e-3, "fp32": 2.1e-2}  # per pair and dimension
SCAN_COST, RECHECK_COST = 0.2, 1.0  # per pair; per candidate and dimension
PROJECTION_PAYS_FROM = 2e8  # ns of products without it: below, finding the directions takes as long


@functools.cache
def best_precision(device_type: str) -> Precision:
    """The fastest tile this machine has units for."""
    if device_type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device_type != "cpu":
        return "fp32"
    has = torch.cpu.get_capabilities().get
    if has("avx512_vnni") or has("amx_int8"):
        return "int8"
    return _best_float()


def _best_float() -> Precision:
    has = torch.cpu.get_capabilities().get
    return "bf16" if has("avx512_bf16") or has("amx_bf16") else "fp32"


@dataclass(frozen=True)
class Projection:
    """Rows onto `basis` (D, K), and the length of what is left in the direction `rest` (K,), orthogonal to it.

    The K directions are turned at random, so that no entry dwarfs the others and int8 loses little.
    """

    basis: Tensor
    rest: Tensor

    def __call__(self, rows_aD: Tensor) -> Tensor:
        head_aK = rows_aD @ self.basis
        rest_a = rows_aD.square().sum(dim=1) - head_aK.square().sum(dim=1)
        return head_aK + (rest_a.clamp_min(0) + REST_SLACK).sqrt()[:, None] * self.rest


def choose_projection(
    audio_sample_AD: Tensor, text_sample_CD: Tensor, threshold: float, precision: Precision, *, pairs: int, rows: int
) -> Projection | None:
    """The projection that makes `pairs` pairs cheapest, or None if the full width does.

    Args:
        rows: how many rows will have to be projected for these pairs.
    """
    width = audio_sample_AD.shape[1]
    product_cost = PRODUCT_COST[precision]
    if audio_sample_AD.device.type != "cpu" or pairs * product_cost * width < PROJECTION_PAYS_FROM or width < 128:
        return None
    # the directions come from every other row, the estimate from the rest: on its own rows it would flatter itself
    fitted_SD = torch.cat([audio_sample_AD[::2], text_sample_CD[::2]])
    audio_SD, text_SD = audio_sample_AD[1::2], text_sample_CD[1::2]
    if not len(audio_SD) or not len(text_SD):
        return None

    def cost(left: Tensor, right: Tensor) -> float:
        error = 0.02 if precision == "int8" else 0.005
        candidates = float((left @ right.T >= threshold - error).double().mean())
        return pairs * (product_cost * left.shape[1] + SCAN_COST + candidates * RECHECK_COST * width)

    generator = torch.Generator().manual_seed(0)
    directions_DK = _leading_directions(fitted_SD, width // 4, generator)
    best, chosen = cost(audio_SD, text_SD), None
    for size in {width // 16, width // 8, width // 4}:
        turned_KK = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
        projection = Projection(directions_DK[:, : size - 1] @ turned_KK[:-1], turned_KK[-1])
        price = cost(projection(audio_SD), projection(text_SD)) + rows * width * size * PRODUCT_COST["fp32"]
        if price < best:
            best, chosen = price, projection
    return chosen


def _leading_directions(rows_SD: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(D, size) orthonormal, the first ones holding most: randomised range finder with one power step."""
    start_SK = torch.randn(len(rows_SD), size, generator=generator)
    directions_DK = torch.linalg.qr(rows_SD.T @ start_SK)[0]
    directions_DK = torch.linalg.qr(rows_SD.T @ (rows_SD @ directions_DK))[0]
    seen_SK = rows_SD @ directions_DK
    return directions_DK @ torch.linalg.eigh(seen_SK.T @ seen_SK)[1].flip(1)


@dataclass(frozen=True)
class CaptionBlock:
    """Captions `start` to `stop` made ready for tiles. `scale` and `error` are those of int8."""

    start: int
    stop: int
    precision: Precision
    rows: Tensor
    scale: float = 1.0
    error: float = 0.0


def caption_block(rows_cK: Tensor, start: int, wanted: Precision) -> CaptionBlock:
    """A block in the precision wanted, or in a finer one where int8 would lose too much."""
    stop = start + len(rows_cK)
    if wanted == "int8":
        scale = max(rows_cK.abs().max().item() / 127, 1e-9)
        quantised_cK, error_c = _quantised(rows_cK, torch.full((len(rows_cK), 1), scale))
        error = error_c.max().item()
        if error <= INT8_ERROR_LIMIT:
            return CaptionBlock(start, stop, "int8", quantised_cK, scale, error)
        wanted = _best_float()
    return CaptionBlock(start, stop, wanted, rows_cK.bfloat16() if wanted == "bf16" else rows_cK)


class ClipTile:
    """A block of clips against blocks of captions, in whichever precision each of these has."""

    def __init__(self, rows_aK: Tensor, precisions: Collection[Precision]):
        self._rows_aK = rows_aK
        self._bf16 = rows_aK.bfloat16() if "bf16" in precisions else None
        self._int8 = _quantised_clips(rows_aK) if "int8" in precisions else None
        self._accumulation = 1e-5 + rows_aK.shape[1] * 2.0**-22  # float32 sums of K terms, in any order

    def candidates(self, block: CaptionBlock, threshold: float) -> tuple[Tensor, Tensor]:
        """Rows and columns of the tile that may reach `threshold`: all that do, and some that do not."""
        if self._rows_aK.is_cuda:
            return self._cuda_candidates(block, threshold)
        if block.precision == "int8":
            assert self._int8 is not None
            rows_aK, error_a, scale_a = self._int8
            # a.t - a'.t' = (a - a').t + a'.(t - t'), where a', t' are what int8 holds
            lost_a = (1 + 2 * NORM_TOLERANCE) * (error_a + block.error) + error_a * block.error + self._accumulation
            cutoff_a = ((threshold - lost_a.double()) / (scale_a.double() * block.scale)).floor().int()
            return _nonzero(torch._int_mm(rows_aK, block.rows.T), cutoff_a)
        if block.precision == "bf16":
            lost = (1 + 4 * NORM_TOLERANCE) * 2.0**-8 + 2.0**-9 * (abs(threshold) + 0.02) + 2 * self._accumulation
            cutoff = _bf16_below(threshold - lost)
            assert self._bf16 is not None
            tile_ac = self._bf16 @ block.rows.T
            if cutoff.item() > 0:  # positive bf16 numbers are ordered as their bits are, negative ones lie below
                return _nonzero(tile_ac.view(torch.int16), cutoff.view(torch.int16))
            return _nonzero(tile_ac.float(), cutoff.float())
        return _nonzero(self._rows_aK @ block.rows.T, torch.tensor(threshold - self._accumulation))

    def _cuda_candidates(self, block: CaptionBlock, threshold: float) -> tuple[Tensor, Tensor]:
        if block.precision == "bf16":
            assert self._bf16 is not None
            # out_dtype: else partial sums may be rounded to bf16 on the way, and the bound does not hold
            tile_ac = torch.mm(self._bf16, block.rows.T, out_dtype=torch.float32)
            lost = (1 + 4 * NORM_TOLERANCE) * 2.0**-8 + self._accumulation
        else:
            tile_ac = self._rows_aK @ block.rows.T
            lost = 2.0**-9 + self._accumulation  # the user may have TF32 on: 2^-11 for each factor
        row_P, column_P = (tile_ac >= threshold - lost).nonzero(as_tuple=True)
        return row_P, column_P


def _quantised_clips(rows_aK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """int8 rows, what each lost, and the scale of each."""
    scale_a1 = (rows_aK.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-9)
    return *_quantised(rows_aK, scale_a1), scale_a1[:, 0]


def _quantised(rows_aK: Tensor, scale_a1: Tensor) -> tuple[Tensor, Tensor]:
    """int8 rows, and the length of what each lost."""
    quantised_aK = (rows_aK / scale_a1).round_().clamp_(-127, 127)
    error_a = torch.linalg.vector_norm(rows_aK - quantised_aK * scale_a1, dim=1)
    return quantised_aK.to(torch.int8), error_a


def _nonzero(tile_ac: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
    """Where `tile_ac` >= cutoff (a scalar or one per row). In numpy: torch's comparison takes ten times as long."""
    tile, limit = tile_ac.numpy(), cutoff.numpy()
    flat = np.flatnonzero(tile >= (limit[:, None] if limit.ndim else limit))
    return torch.from_numpy(flat // tile.shape[1]), torch.from_numpy(flat % tile.shape[1])


def _bf16_below(value: float) -> Tensor:
    """`value` rounded down, so that tiles can be compared with it as bits."""
    rounded = torch.tensor(value, dtype=torch.bfloat16)
    if rounded.item() > value:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf, dtype=torch.bfloat16))
    return rounded
