"""A clip made longer or shorter by resampling, so that its pitch moves with its tempo."""

from __future__ import annotations

import math

import numpy as np

# Shapes: T samples of the clip, S samples of the scaled clip.

# Bounds what a long recording needs besides its samples, and fits a processor's cache.
BLOCK_SAMPLES = 2**14


def scale_time(samples_T: np.ndarray, factor: float) -> np.ndarray:
    """The clip at `factor` times its length, at the same sample rate; float32, round(T * factor) samples, at least one.

    The time scaling of AudioCLIP, which SemanticAC takes over. Our reading of "resampling" is linear interpolation with
    each sample in the middle of its share of the time, as `torch.nn.functional.interpolate(mode="linear")` does it:
    sample s of S lies at (s + 0.5) * T / S - 0.5, and beyond its ends the clip holds its first and last sample. So
    scaling a reversed clip is reversing a scaled one. Nothing is filtered: a shorter clip aliases what lies above
    `factor` times half the sample rate. Where quality counts, `raysem.audio.resample` is the function to take.
    """
    if samples_T.ndim != 1 or not len(samples_T):
        raise ValueError(f"a clip is one row of samples (T,), got shape {samples_T.shape}")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be above 0 and finite, got {factor}")
    num_samples = max(1, round(len(samples_T) * factor))
    step = len(samples_T) / num_samples
    scaled_S = np.empty(num_samples, dtype=np.float32)
    for start in range(0, num_samples, BLOCK_SAMPLES):
        stop = min(start + BLOCK_SAMPLES, num_samples)
        places = (np.arange(start, stop) + 0.5) * step - 0.5
        first, last = max(0, int(places[0])), min(len(samples_T), int(places[-1]) + 2)
        scaled_S[start:stop] = np.interp(places, np.arange(first, last), samples_T[first:last])
    return scaled_S
