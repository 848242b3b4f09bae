"""Sample-rate conversion: torchaudio's windowed sinc, in blocks, for every pair of rates."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torchaudio.transforms import Resample

# Shapes: C channels, T samples, K output phases of the polyphase kernel, L taps, N output frames of a block.

# Zero crossings on each side and the share of the lower Nyquist frequency that passes: torchaudio's defaults.
LOWPASS_FILTER_WIDTH = 6
ROLLOFF = 0.99
# 4 MiB: 48 and 44.1 kHz need 100 kB, 44101 to 44100 Hz would need 7.8 GB.
MAX_KERNEL_ELEMENTS = 2**20
# Input samples per block: bounds the memory of long clips; a clip of 20 s is one block.
BLOCK_SAMPLES = 2**20


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """`samples` (T,) or (C, T) at `to_rate`, float32, exactly ceil(T * to_rate / from_rate) samples.

    The filter is that of torchaudio.functional.resample with its default arguments. Rates with a large
    least common multiple (44101 to 44100 Hz) take a direct evaluation of the same filter instead of its kernel table.
    """
    if from_rate < 1 or to_rate < 1:
        raise ValueError(f"sample rates are positive, got {from_rate} and {to_rate} Hz")
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if samples.ndim == 2:
        return np.stack([resample(samples_T, from_rate, to_rate) for samples_T in samples])
    if samples.ndim != 1:
        raise ValueError(f"expected samples of shape (T,) or (C, T), got {samples.shape}")
    gcd = math.gcd(from_rate, to_rate)
    step, phases = from_rate // gcd, to_rate // gcd
    if step == phases or not len(samples):
        return samples
    num_samples = -(-len(samples) * phases // step)
    taps = 2 * _half_width(step, phases) + step
    with torch.inference_mode():
        if phases * taps <= MAX_KERNEL_ELEMENTS:
            return _by_kernel(torch.from_numpy(samples), step, phases, num_samples)
    return _by_definition(samples, step, phases, num_samples)


def _half_width(step: int, phases: int) -> int:
    return math.ceil(LOWPASS_FILTER_WIDTH * step / (min(step, phases) * ROLLOFF))


@lru_cache(maxsize=32)
def _polyphase_kernel(step: int, phases: int) -> torch.Tensor:
    # float64: in float32 torchaudio's kernel for 640 phases is off by 5e-5, for thousands by 1e-3
    resampler = Resample(step, phases, lowpass_filter_width=LOWPASS_FILTER_WIDTH, rolloff=ROLLOFF, dtype=torch.float64)
    return resampler.kernel.float()


def _by_kernel(samples_T: torch.Tensor, step: int, phases: int, num_samples: int) -> np.ndarray:
    kernel_K1L = _polyphase_kernel(step, phases)
    taps = kernel_K1L.shape[-1]
    padded_T = F.pad(samples_T, (_half_width(step, phases), _half_width(step, phases) + step))
    num_frames = -(-num_samples // phases)
    block_frames = max(1, BLOCK_SAMPLES // step)
    output = np.empty(num_frames * phases, dtype=np.float32)
    for first in range(0, num_frames, block_frames):
        last = min(first + block_frames, num_frames)
        block_T = padded_T[first * step : (last - 1) * step + taps]
        block_1KN = F.conv1d(block_T[None, None], kernel_K1L, stride=step)
        output[first * phases : last * phases] = block_1KN[0].T.reshape(-1).numpy()
    return output[:num_samples]


def _by_definition(samples_T: np.ndarray, step: int, phases: int, num_samples: int) -> np.ndarray:
    """Each output sample as the windowed-sinc sum over its neighbours: no table, 2 * width + 1 taps."""
    width = _half_width(step, phases)
    padded_T = np.pad(samples_T, (width, width + 1))  # float32 until its block: a long clip is large
    cutoff = min(step, phases) * ROLLOFF / step
    offsets_L = np.arange(-width, width + 1)
    block = max(1, BLOCK_SAMPLES // len(offsets_L))
    output = np.empty(num_samples, dtype=np.float32)
    for first in range(0, num_samples, block):
        outputs_N = np.arange(first, min(first + block, num_samples), dtype=np.int64) * step
        centre_N, remainder_N = outputs_N // phases, outputs_N % phases
        distance_NL = (offsets_L[None] - (remainder_N / phases)[:, None]) * cutoff
        distance_NL = distance_NL.clip(-LOWPASS_FILTER_WIDTH, LOWPASS_FILTER_WIDTH)
        weight_NL = np.sinc(distance_NL) * np.cos(distance_NL * (math.pi / (2 * LOWPASS_FILTER_WIDTH))) ** 2 * cutoff
        neighbours_NL = padded_T[(centre_N + width)[:, None] + offsets_L[None]]
        output[first : first + len(outputs_N)] = (neighbours_NL * weight_NL).sum(axis=1)
    return output
