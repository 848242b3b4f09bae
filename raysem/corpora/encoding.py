"""Waveforms into the bytes of audio files, the same bytes for the same samples (no time stamps, no random serials)."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import cast

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from raysem.errors import ConfigError

# Shapes: T samples, C channels.
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def encode(samples_TC: NDArray[np.float32], sample_rate: int, *, format: str) -> bytes:
    """`samples_TC` (range -1 to 1) as a file of one of `FORMATS`. Lossy codecs add their own delay and padding."""
    if format not in ENCODERS:
        raise ConfigError(f"audio format: no {format!r}; there are {sorted(ENCODERS)}")
    if samples_TC.ndim != 2:
        raise ValueError(f"samples must be (samples, channels), got shape {samples_TC.shape}")
    return ENCODERS[format](samples_TC, sample_rate)


def suffix(format: str) -> str:
    """The usual ending of a file of this format."""
    return _SUFFIXES[format]


def wav(data: bytes, sample_rate: int, *, channels: int, sample_bytes: int, floating: bool = False) -> bytes:
    """A RIFF file around interleaved little-endian samples (libsndfile would stamp the time into float files)."""
    code = 3 if floating else 1
    block = channels * sample_bytes
    layout = struct.pack("<HHIIHH", code, channels, sample_rate, sample_rate * block, block, 8 * sample_bytes)
    chunks = b"fmt " + struct.pack("<I", len(layout)) + layout
    if floating:
        chunks += b"fact" + struct.pack("<II", 4, len(data) // block)
    chunks += b"data" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _wav16(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    data = np.clip(np.rint(samples_TC * 32767), -32768, 32767).astype("<i2").tobytes()
    return wav(data, sample_rate, channels=samples_TC.shape[1], sample_bytes=2)


def _wav24(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    whole = np.clip(np.rint(samples_TC * 8388607.0), -8388608, 8388607).astype("<i4")
    data = np.ascontiguousarray(whole).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return wav(data, sample_rate, channels=samples_TC.shape[1], sample_bytes=3)


def _wav_float(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    data = samples_TC.astype("<f4").tobytes()
    return wav(data, sample_rate, channels=samples_TC.shape[1], sample_bytes=4, floating=True)


def _libsndfile(samples_TC: NDArray[np.float32], sample_rate: int, container: str, subtype: str) -> bytes:
    handle = io.BytesIO()
    soundfile.write(handle, samples_TC, sample_rate, format=container, subtype=subtype)
    return handle.getvalue()


def _flac(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    return _libsndfile(samples_TC, sample_rate, "FLAC", "PCM_16")


def _mp3(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    return _libsndfile(samples_TC, sample_rate, "MP3", "MPEG_LAYER_III")


def _vorbis(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    return _with_serial_number(_libsndfile(samples_TC, sample_rate, "OGG", "VORBIS"), 1)


def _with_serial_number(ogg: bytes, serial: int) -> bytes:
    """The pages with this serial number and new checksums: libsndfile draws the number from the clock."""
    pages = bytearray()
    at = 0
    while at < len(ogg):
        num_segments = ogg[at + 26]
        end = at + 27 + num_segments + sum(ogg[at + 27 : at + 27 + num_segments])
        page = bytearray(ogg[at:end])
        struct.pack_into("<I", page, 14, serial)
        struct.pack_into("<I", page, 22, 0)
        struct.pack_into("<I", page, 22, _ogg_checksum(page))
        pages += page
        at = end
    return bytes(pages)


def _checksum_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
        table.append(value)
    return table


_CHECKSUMS = _checksum_table()


def _ogg_checksum(page: bytes | bytearray) -> int:
    """CRC-32 of RFC 3533: neither reflected nor inverted, so not the one of zlib."""
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFFFFFF) ^ _CHECKSUMS[(value >> 24) ^ byte]
    return value


def _ffmpeg(samples_TC: NDArray[np.float32], sample_rate: int, container: str, codec: str) -> bytes:
    out = io.BytesIO()
    layout = {1: "mono", 2: "stereo"}[samples_TC.shape[1]]
    # bitexact: no encoder version, no time stamp, a serial number that is not random
    with av.open(out, "w", format=container, options={"fflags": "+bitexact"}) as target:
        extra = {"aac_coder": "fast"} if codec == "aac" else {}
        options = {"flags": "+bitexact", **extra}
        stream = cast(AudioStream, target.add_stream(codec, rate=sample_rate, options=options))
        stream.layout = layout
        stream.bit_rate = 64_000 * samples_TC.shape[1]
        sample_format = "flt" if codec == "libopus" else "fltp"
        data = samples_TC.reshape(1, -1) if sample_format == "flt" else samples_TC.T
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), format=sample_format, layout=layout)
        frame.sample_rate, frame.pts = sample_rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            target.mux(packet)
    return out.getvalue()


def _opus(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    if sample_rate not in OPUS_RATES:
        raise ConfigError(f"opus: sample rate {sample_rate}; there are {OPUS_RATES}")
    return _ffmpeg(samples_TC, sample_rate, "ogg", "libopus")


def _m4a(samples_TC: NDArray[np.float32], sample_rate: int) -> bytes:
    return _ffmpeg(samples_TC, sample_rate, "ipod", "aac")


ENCODERS: dict[str, Callable[[NDArray[np.float32], int], bytes]] = {
    "wav16": _wav16,
    "wav24": _wav24,
    "wav_float": _wav_float,
    "flac": _flac,
    "vorbis": _vorbis,
    "opus": _opus,
    "mp3": _mp3,
    "m4a": _m4a,
}
FORMATS = tuple(ENCODERS)
_SUFFIXES = {
    "wav16": ".wav",
    "wav24": ".wav",
    "wav_float": ".wav",
    "flac": ".flac",
    "vorbis": ".ogg",
    "opus": ".opus",
    "mp3": ".mp3",
    "m4a": ".m4a",
}
