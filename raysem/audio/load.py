"""One clip as a model takes it: decoded, mixed to mono, checked, resampled."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, PositiveInt

from raysem.audio.decode import decode
from raysem.audio.resample import resample
from raysem.audio.waveform import DecodeLimits
from raysem.config import Settings
from raysem.errors import ClipError

# Shapes: C channels, T samples.

# Squares of larger samples, summed over a window, leave float32: a log-mel would be infinite.
MAX_PEAK = 1e12


class AudioSettings(Settings):
    """How clips are loaded, and which are unusable."""

    sample_rate: PositiveInt = 44_100
    min_duration_seconds: float = Field(0.1, ge=0)
    """Shorter clips are rejected as too_short."""
    silence_dbfs: float = -80.0
    """A clip whose peak, after mixing to mono, lies below this level (full scale is 0 dB) is rejected as silent."""
    limits: DecodeLimits = DecodeLimits()


def load_clip(
    audio_bytes: bytes | None,
    path: str | None,
    *,
    start_seconds: float | None = None,
    duration_seconds: float | None = None,
    settings: AudioSettings | None = None,
) -> np.ndarray:
    """Mono float32 samples (T,) at `settings.sample_rate`: the mean of the channels, resampled.

    Takes the columns of a clips table: `audio.bytes` if it is there, else `audio.path`.

    Raises:
        ClipError: the clip cannot be used; its outcome is one of missing, empty, undecodable, truncated, too_short,
            too_long, silent, non_finite.
        StorageError: the disk or the store does not give the clip. Nothing else is raised, whatever the bytes are.
    """
    settings = settings or AudioSettings()
    if audio_bytes is None and not path:
        raise ClipError("missing", "the row has neither bytes nor a path")
    audio = audio_bytes if audio_bytes is not None else str(path)
    waveform = decode(audio, start_seconds=start_seconds, duration_seconds=duration_seconds, limits=settings.limits)
    if waveform.duration_seconds < settings.min_duration_seconds:
        raise ClipError(
            "too_short", f"{waveform.duration_seconds:.3f} s, the least is {settings.min_duration_seconds:g} s"
        )
    samples_T = mix_to_mono(waveform.samples_CT)
    check_level(samples_T, settings.silence_dbfs)
    return resample(samples_T, waveform.sample_rate, settings.sample_rate)


def mix_to_mono(samples_CT: np.ndarray) -> np.ndarray:
    """The mean of the channels (T,)."""
    if len(samples_CT) == 1:
        return samples_CT[0]
    with np.errstate(over="ignore", invalid="ignore"):  # `check_level` names what comes of infinity
        return samples_CT.mean(axis=0, dtype=np.float32)


def check_level(samples_T: np.ndarray, silence_dbfs: float) -> None:
    """ClipError `non_finite` for NaN, infinity or absurd values, `silent` for a peak below the level."""
    peak = max(float(samples_T.max()), -float(samples_T.min()))  # NaN comes through both
    if not math.isfinite(peak) or peak > MAX_PEAK:
        num_bad = int((~np.isfinite(samples_T)).sum())
        raise ClipError("non_finite", f"{num_bad} of {len(samples_T)} samples are NaN or infinite, peak {peak:g}")
    if peak < 10 ** (silence_dbfs / 20):
        level = f"{20 * math.log10(peak):.1f} dBFS" if peak > 0 else "0"
        raise ClipError("silent", f"peak {level}, the least is {silence_dbfs:g} dBFS")
