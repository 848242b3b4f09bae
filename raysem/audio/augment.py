"""Augmentation of a training waveform: gain and time shift, each fixed by (seed, epoch, clip_id)."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from raysem.audio.draws import clip_generator
from raysem.config import Settings

# Shapes: T samples.


class AugmentSettings(Settings):
    """Off unless asked for."""

    gain_db: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest gain; each clip gets one drawn evenly between them. PaSST: whole numbers from -7 to 6."""
    time_shift_seconds: float = Field(0.0, ge=0)
    """Largest shift to either side; what leaves the crop at one end comes in at the other. By default EfficientAT's
    function shifts by up to 4000 samples at 32 kHz (0.125 s), PaSST's by up to 50."""

    @field_validator("gain_db")
    @classmethod
    def _lowest_first(cls, gain_db: tuple[float, float]) -> tuple[float, float]:
        if gain_db[0] > gain_db[1]:
            raise ValueError(f"expected the lowest gain first, got {gain_db[0]:g} and {gain_db[1]:g}")
        return gain_db


def augment(
    samples_T: np.ndarray, settings: AugmentSettings, sample_rate: int, *, seed: int, epoch: int, clip_id: str
) -> np.ndarray:
    """The samples louder or softer, and rolled; float32. `samples_T` is not changed, and returned when all is off.

    Samples may leave [-1, 1]: nothing is clipped, as nothing after this needs it.
    """
    if samples_T.ndim != 1 or not len(samples_T):
        raise ValueError(f"a clip is one row of samples (T,), got shape {samples_T.shape}")
    augmented_T = samples_T.astype(np.float32, copy=False)
    if settings.gain_db != (0.0, 0.0):
        generator = clip_generator("gain", seed=seed, epoch=epoch, clip_id=clip_id)
        augmented_T = augmented_T * np.float32(10 ** (generator.uniform(*settings.gain_db) / 20))
    largest = round(settings.time_shift_seconds * sample_rate)
    if largest:
        generator = clip_generator("shift", seed=seed, epoch=epoch, clip_id=clip_id)
        augmented_T = np.roll(augmented_T, int(generator.integers(-largest, largest + 1)))
    return augmented_T
