"""Mixup of waveforms: two clips in one, whose labels are mixed with the same ratio."""

from __future__ import annotations

import numpy as np

from raysem.audio.draws import clip_generator

# Shapes: T samples.


def mix_waveforms(one_T: np.ndarray, other_T: np.ndarray, ratio: float) -> np.ndarray:
    """ratio x one + (1 - ratio) x other, each made zero-mean first; float32.

    As PSLA, AST, PaSST and EfficientAT do it: without taking the means off, a clip with a constant offset would lend it
    to the other. They subtract the mean of the mixture too, which is 0 here but for rounding, as both are equally long.
    The clips keep their loudness: a soft one at 0.6 may be hardly heard under a loud one at 0.4, while its labels
    weigh 0.6.

    The inputs are crops of the same length; PSLA and AST pad the second clip with zeros, or cut it, to the first's.
    """
    if one_T.ndim != 1 or one_T.shape != other_T.shape or not len(one_T):
        raise ValueError(f"two crops of one length (T,) are mixed, got shapes {one_T.shape} and {other_T.shape}")
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be from 0 to 1, got {ratio}")
    return (ratio * _zero_mean(one_T) + (1 - ratio) * _zero_mean(other_T)).astype(np.float32)


def mixup_ratio(alpha: float, *, seed: int, epoch: int, clip_id: str) -> float:
    """The first clip's share, from Beta(alpha, alpha), fixed by (seed, epoch, clip_id).

    PSLA and AST: alpha 10, a share near a half. PaSST and EfficientAT: alpha 2, of which they take max(r, 1 - r): the
    clip that the sampling chose stays the larger part.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    return float(clip_generator("mixup ratio", seed=seed, epoch=epoch, clip_id=clip_id).beta(alpha, alpha))


def _zero_mean(samples_T: np.ndarray) -> np.ndarray:
    return samples_T - samples_T.mean(dtype=np.float64)
