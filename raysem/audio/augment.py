"""Augmentation of a training waveform, before its crop and after it, each draw fixed by (seed, epoch, clip_id)."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from raysem.audio.crops import Padding
from raysem.audio.draws import clip_generator
from raysem.audio.noise import add_white_noise
from raysem.audio.time_scale import scale_time
from raysem.config import Settings

# Shapes: T samples, S samples of a clip whose time was scaled.

# float32 holds some 144 dB between a sample and its rounding.
NoiseRatio = Annotated[float, Field(ge=-40, le=140)]
_ALWAYS_WRITTEN = {"gain_db", "time_shift_seconds"}


class AugmentSettings(Settings):
    """Off unless asked for."""

    gain_db: tuple[float, float] = (0.0, 0.0)
    """Lowest and highest gain; each clip gets one drawn evenly between them. PaSST: whole numbers from -7 to 6."""
    time_shift_seconds: float = Field(0.0, ge=0)
    """Largest shift to either side; what leaves the crop at one end comes in at the other. By default EfficientAT's
    function shifts by up to 4000 samples at 32 kHz (0.125 s), PaSST's by up to 50."""
    reversal_probability: float = Field(0.0, ge=0, le=1)
    """Share of the clips that run backwards."""
    time_scale: float = Field(1.0, ge=1, le=4)
    """Largest factor of a clip's length; each clip gets time_scale ** u, u drawn evenly from -1 to 1. Pitch moves too.
    1: off."""
    pad: Padding = "zero"
    """What stands before and after a clip that is shorter than the crop: zeros, or its first and its last sample."""
    noise_probability: float = Field(0.0, ge=0, le=1)
    """Share of the crops that get white noise."""
    noise_snr_db: tuple[NoiseRatio, NoiseRatio] = (10.0, 120.0)
    """Lowest and highest ratio of a crop's power to its noise's; each crop's is drawn evenly between them, in dB."""

    @field_validator("gain_db")
    @classmethod
    def _lowest_first(cls, gain_db: tuple[float, float]) -> tuple[float, float]:
        if gain_db[0] > gain_db[1]:
            raise ValueError(f"expected the lowest gain first, got {gain_db[0]:g} and {gain_db[1]:g}")
        return gain_db

    @field_validator("noise_snr_db")
    @classmethod
    def _loudest_noise_first(cls, snr_db: tuple[float, float]) -> tuple[float, float]:
        if snr_db[0] > snr_db[1]:
            raise ValueError(f"expected the lowest ratio first, got {snr_db[0]:g} and {snr_db[1]:g}")
        return snr_db

    @model_serializer(mode="wrap")
    def _silent_where_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what is at its default, but for gain and shift: recipes keep the digests from when only these two
        were there."""
        content, off = handler(self), type(self)()
        return {
            key: value
            for key, value in content.items()
            if key in _ALWAYS_WRITTEN or getattr(self, key) != getattr(off, key)
        }


AUDIOCLIP_AUGMENTATION = AugmentSettings(
    reversal_probability=0.5, time_scale=1.5, pad="edge", noise_probability=0.25, noise_snr_db=(10.0, 120.0)
)
"""AudioCLIP's (Guzhov et al. 2022), which SemanticAC takes over; with `train_crop` for its random crop and padding."""


def augment_time(
    samples_T: np.ndarray, settings: AugmentSettings, *, seed: int, epoch: int, clip_id: str
) -> np.ndarray:
    """The whole clip (S,), before its crop: perhaps backwards, then longer or shorter; float32.

    `samples_T` is not changed, and returned when all is off.
    """
    _check(samples_T)
    augmented_S = samples_T.astype(np.float32, copy=False)
    if settings.reversal_probability > 0:
        generator = clip_generator("reversal", seed=seed, epoch=epoch, clip_id=clip_id)
        if generator.random() < settings.reversal_probability:
            augmented_S = augmented_S[::-1].copy()  # a view with a negative stride is nothing for torch
    if settings.time_scale > 1:
        generator = clip_generator("time scale", seed=seed, epoch=epoch, clip_id=clip_id)
        augmented_S = scale_time(augmented_S, settings.time_scale ** generator.uniform(-1, 1))
    return augmented_S


def augment(
    samples_T: np.ndarray, settings: AugmentSettings, sample_rate: int, *, seed: int, epoch: int, clip_id: str
) -> np.ndarray:
    """The crop louder or softer, rolled, and perhaps with noise; float32.

    `samples_T` is not changed, and returned when all is off. Samples may leave [-1, 1]: nothing is clipped, as nothing
    after this needs it.
    """
    _check(samples_T)
    augmented_T = samples_T.astype(np.float32, copy=False)
    if settings.gain_db != (0.0, 0.0):
        generator = clip_generator("gain", seed=seed, epoch=epoch, clip_id=clip_id)
        augmented_T = augmented_T * np.float32(10 ** (generator.uniform(*settings.gain_db) / 20))
    largest = round(settings.time_shift_seconds * sample_rate)
    if largest:
        generator = clip_generator("shift", seed=seed, epoch=epoch, clip_id=clip_id)
        augmented_T = np.roll(augmented_T, int(generator.integers(-largest, largest + 1)))
    if settings.noise_probability > 0:
        generator = clip_generator("noise", seed=seed, epoch=epoch, clip_id=clip_id)
        if generator.random() < settings.noise_probability:
            augmented_T = add_white_noise(augmented_T, generator.uniform(*settings.noise_snr_db), generator)
    return augmented_T


def _check(samples_T: np.ndarray) -> None:
    if samples_T.ndim != 1 or not len(samples_T):
        raise ValueError(f"a clip is one row of samples (T,), got shape {samples_T.shape}")
