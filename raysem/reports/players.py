"""Short clips as data URIs, small enough that a page of them can be mailed."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass

import numpy as np
import soundfile
from pydantic import Field, PositiveInt

from raysem.audio.resample import resample
from raysem.config import Settings

log = logging.getLogger(__name__)

# MP3 first: every browser plays it, Ogg Vorbis is missing on iPhones before iOS 18.4. Wav is five times the size.
_ENCODINGS = (
    ("audio/mpeg", "MP3", "MPEG_LAYER_III"),
    ("audio/ogg", "OGG", "VORBIS"),
    ("audio/wav", "WAV", "PCM_16"),
)
_NUM_PEAKS = 56


class PlayerSettings(Settings):
    """Bounds of the audio in a report."""

    max_players: PositiveInt = 72
    max_seconds: float = Field(5.0, gt=0)
    """Only the first seconds of a clip are played."""
    sample_rate: PositiveInt = 22050
    """Clips of a higher rate are brought down to it."""
    max_total_mib: float = Field(8.0, gt=0)
    """Of encoded audio in one page; what does not fit is named and not heard."""


@dataclass(frozen=True)
class Player:
    """One clip as it stands in the page."""

    uri: str
    duration_seconds: float
    peaks: tuple[float, ...]  # 0..1, loudest moment at 1
    num_bytes: int


def encode_player(waveform_T: np.ndarray, sample_rate: int, settings: PlayerSettings) -> Player:
    """The clip's first seconds, mono, peak-normalised only where it would clip.

    Raises:
        ValueError: no samples, samples that are not finite, or more than one channel.
    """
    waveform_T = np.asarray(waveform_T, dtype=np.float32)
    if waveform_T.ndim != 1 or len(waveform_T) == 0 or not np.isfinite(waveform_T).all():
        raise ValueError(f"a player needs finite mono samples, got shape {waveform_T.shape}")
    waveform_T = waveform_T[: int(settings.max_seconds * sample_rate)]
    if sample_rate > settings.sample_rate:
        waveform_T, sample_rate = resample(waveform_T, sample_rate, settings.sample_rate), settings.sample_rate
    waveform_T = waveform_T / max(1.0, float(np.abs(waveform_T).max()))
    mime, encoded = _encode(waveform_T, sample_rate)
    return Player(
        uri=f"data:{mime};base64,{base64.b64encode(encoded).decode()}",
        duration_seconds=len(waveform_T) / sample_rate,
        peaks=_peaks(waveform_T),
        num_bytes=len(encoded),
    )


def _encode(waveform_T: np.ndarray, sample_rate: int) -> tuple[str, bytes]:
    for mime, container, subtype in _ENCODINGS:
        buffer = io.BytesIO()
        try:
            soundfile.write(buffer, waveform_T, sample_rate, format=container, subtype=subtype)
        except (soundfile.LibsndfileError, ValueError) as error:  # an old libsndfile, or a rate the codec has not
            log.debug("no %s for a player: %s", container, error)
            continue
        return mime, buffer.getvalue()
    raise ValueError(f"libsndfile writes none of {[container for _, container, _ in _ENCODINGS]} at {sample_rate} Hz")


def _peaks(waveform_T: np.ndarray) -> tuple[float, ...]:
    parts = np.array_split(np.abs(waveform_T), min(_NUM_PEAKS, len(waveform_T)))
    peaks = np.array([part.max() for part in parts])
    return tuple(np.round(peaks / max(float(peaks.max()), 1e-9), 2).tolist())
