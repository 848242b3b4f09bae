"""White noise under a clip, at a given signal-to-noise ratio."""

from __future__ import annotations

import math

import numpy as np

# Shapes: T samples.


def add_white_noise(samples_T: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
    """The clip with Gaussian noise whose power is expected to be the clip's / 10^(snr_db / 10); float32.

    Our reading of the signal's power is the mean square of what is given: of a padded crop the padding counts, and a
    constant offset does. Silence stays silent, as its power is 0.
    """
    if samples_T.ndim != 1 or not len(samples_T):
        raise ValueError(f"a clip is one row of samples (T,), got shape {samples_T.shape}")
    power = np.square(samples_T, dtype=np.float64).mean()
    amplitude = np.float32(math.sqrt(power) * 10 ** (-snr_db / 20))
    noise_T = generator.standard_normal(len(samples_T), dtype=np.float32)
    return samples_T.astype(np.float32, copy=False) + amplitude * noise_T
