"""Audio files of every format that raysem reads, written by soundfile and PyAV at the start of the session."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

# Shapes: C channels, T samples.


@dataclass(frozen=True)
class Format:
    """How one kind of file is written: by soundfile (container, subtype) or by PyAV (container, codec)."""

    writer: str
    container: str
    codec: str
    sample_rate: int = 44_100
    is_lossless: bool = False


FORMATS: dict[str, Format] = {
    "wav8.wav": Format("soundfile", "WAV", "PCM_U8", is_lossless=True),
    "wav16.wav": Format("soundfile", "WAV", "PCM_16", is_lossless=True),
    "wav24.wav": Format("soundfile", "WAV", "PCM_24", is_lossless=True),
    "wav32.wav": Format("soundfile", "WAV", "PCM_32", is_lossless=True),
    "float.wav": Format("soundfile", "WAV", "FLOAT", is_lossless=True),
    "double.wav": Format("soundfile", "WAV", "DOUBLE", is_lossless=True),
    "flac.flac": Format("soundfile", "FLAC", "PCM_24", is_lossless=True),
    "vorbis.ogg": Format("soundfile", "OGG", "VORBIS"),
    "mp3.mp3": Format("soundfile", "MP3", "MPEG_LAYER_III"),
    "opus.ogg": Format("pyav", "ogg", "libopus", 48_000),
    "aac.m4a": Format("pyav", "ipod", "aac"),
    "aac.mp4": Format("pyav", "mp4", "aac"),
    "adts.aac": Format("pyav", "adts", "aac"),
    "opus.webm": Format("pyav", "webm", "libopus", 48_000),
    "ffmpeg.mp3": Format("pyav", "mp3", "libmp3lame"),
}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def chirp(seconds: float, sample_rate: int, channels: int = 1) -> np.ndarray:
    """Sweeping tones (C, T) of distinct levels: at no two times alike, so that a shifted segment shows."""
    time_T = np.arange(round(seconds * sample_rate)) / sample_rate
    top_hz = min(3000.0, 0.2 * sample_rate)
    rows = []
    for channel in range(channels):
        phase_T = 2 * np.pi * (100 * (channel + 1) * time_T + (top_hz - 100) * time_T**2 / (2 * seconds))
        rows.append((0.5 / (channel + 1)) * np.sin(phase_T))
    return np.stack(rows).astype(np.float32)


def encode(samples_CT: np.ndarray, name: str, sample_rate: int | None = None) -> bytes:
    """The bytes of a file of the kind `name` of FORMATS."""
    kind = FORMATS[name]
    rate = sample_rate or kind.sample_rate
    buffer = io.BytesIO()
    if kind.writer == "soundfile":
        soundfile.write(buffer, samples_CT.T, rate, format=kind.container, subtype=kind.codec)
        return buffer.getvalue()
    with av.open(buffer, "w", format=kind.container) as container:
        stream = container.add_stream(kind.codec, rate=rate)
        stream.layout = LAYOUTS[len(samples_CT)]
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples_CT.T.reshape(1, -1)), format="flt", layout=LAYOUTS[len(samples_CT)]
        )
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format, stream.codec_context.layout, rate)
        fifo = av.AudioFifo()
        for converted in resampler.resample(frame):
            converted.pts = None
            fifo.write(converted)
        stream.codec_context.open()
        frame_size = stream.codec_context.frame_size or 1024
        position = 0
        while (piece := fifo.read(frame_size, partial=True)) is not None:
            piece.pts, position = position, position + piece.samples
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@cache
def clip_bytes(name: str, seconds: float = 1.0, channels: int = 1, sample_rate: int | None = None) -> bytes:
    """A chirp as a file of the kind `name`."""
    rate = sample_rate or FORMATS[name].sample_rate
    return encode(chirp(seconds, rate, channels), name, rate)


@pytest.fixture(scope="session")
def audio_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One second of mono chirp in each format."""
    folder = tmp_path_factory.mktemp("audio")
    files = {}
    for name in FORMATS:
        files[name] = folder / name
        files[name].write_bytes(clip_bytes(name))
    return files


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., bytes]:
    """`clip_bytes(name, seconds, channels, sample_rate)`."""
    return clip_bytes


@pytest.fixture(scope="session")
def make_chirp() -> Callable[..., np.ndarray]:
    """`chirp(seconds, sample_rate, channels)`."""
    return chirp
