"""Files that cannot be used, of all the kinds that a pool from the wild holds, each with the outcome it must get.

For tests and for the synthetic corpus. An ogg or opus file that was cut behind its headers is not among them: nothing
in it promises more than it holds, so it is a shorter clip. Nor is a sound file with the ending of another format.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raysem.corpora.encoding import encode, wav
from raysem.corpora.synthetic_signals import Samples, Studio

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class BrokenClip:
    """One unusable file: where it is (or is not), what it must be rejected as, and what is wrong with it."""

    path: str
    outcome: str
    kind: str


@dataclass(frozen=True)
class _Content:
    """Bytes, and the size to which zeros fill the file (sparse on most disks)."""

    data: bytes
    size: int = 0


@dataclass(frozen=True)
class _Kind:
    outcome: str
    suffix: str
    make: Callable[[np.random.Generator, float], _Content | None]


def write_broken_clips(folder: str, count: int, seed: int, *, longest_seconds: float = 1800.0) -> list[BrokenClip]:
    """Write `count` unusable files, all `BROKEN_KINDS` in turn; the same bytes for the same arguments.

    Args:
        longest_seconds: the limit that the kinds `too_long_*` pass by a second.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    names = list(BROKEN_KINDS)
    clips = []
    for index in range(count):
        name = names[index % len(names)]
        kind = BROKEN_KINDS[name]
        path = Path(folder).absolute() / f"broken_{index:05d}{kind.suffix}"
        content = kind.make(np.random.default_rng([seed, index]), longest_seconds)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            with path.open("wb") as handle:
                handle.write(content.data)
                handle.truncate(max(content.size, len(content.data)))
        clips.append(BrokenClip(str(path), kind.outcome, name))
    return clips


def _sound(rng: np.random.Generator, seconds: float = 2.0) -> Samples:
    """Something to be heard, as (samples, 1)."""
    studio = Studio(rng, int(seconds * SAMPLE_RATE), SAMPLE_RATE)
    tone_T = studio.tone(studio.wander(3, 200, 900), [1, 0.5, 0.3]) + 0.3 * studio.noise(200, 5000)
    return (0.2 * tone_T)[:, None].astype(np.float32, copy=False)


def _cut(format: str, share: float) -> Callable[[np.random.Generator, float], _Content]:
    def make(rng: np.random.Generator, _: float) -> _Content:
        whole = encode(_sound(rng), SAMPLE_RATE, format=format)
        return _Content(whole[: int(share * len(whole))])

    return make


def _cut_in_headers(format: str) -> Callable[[np.random.Generator, float], _Content]:
    def make(rng: np.random.Generator, _: float) -> _Content:
        return _Content(encode(_sound(rng), SAMPLE_RATE, format=format)[: int(rng.integers(20, 56))])

    return make


def _of_samples(
    change: Callable[[np.random.Generator], Samples], format: str
) -> Callable[[np.random.Generator, float], _Content]:
    return lambda rng, _: _Content(encode(change(rng), SAMPLE_RATE, format=format))


def _with_value(value: float) -> Callable[[np.random.Generator], Samples]:
    def make(rng: np.random.Generator) -> Samples:
        samples_TC = _sound(rng)
        samples_TC[rng.integers(0, len(samples_TC), 3)] = value
        return samples_TC

    return make


def _hiss(rng: np.random.Generator) -> Samples:
    return (1e-6 * np.clip(rng.standard_normal((2 * SAMPLE_RATE, 1)), -3, 3)).astype(np.float32)


def _long_wav(_: np.random.Generator, longest_seconds: float) -> _Content:
    num_samples = int((longest_seconds + 1) * 8000)
    header = bytearray(wav(b"", 8000, channels=1, sample_bytes=1))
    struct.pack_into("<I", header, 4, len(header) - 8 + num_samples)
    struct.pack_into("<I", header, len(header) - 4, num_samples)
    return _Content(bytes(header), len(header) + num_samples)


def _long_flac(_: np.random.Generator, longest_seconds: float) -> _Content:
    samples_TC = np.full((int((longest_seconds + 1) * 8000), 1), 0.25, dtype=np.float32)
    return _Content(encode(samples_TC, 8000, format="flac"))


def _text(rng: np.random.Generator, _: float) -> _Content:
    lines = [f"{number},{rng.integers(1000)},not audio" for number in range(40)]
    return _Content("\n".join(["<html>404 not found</html>", *lines]).encode())


def _random_bytes(rng: np.random.Generator, _: float) -> _Content:
    # no 0xff: a chance sync word would make it an MPEG frame
    return _Content(rng.integers(0, 0xFE, int(rng.integers(500, 20_000)), dtype=np.uint8).tobytes())


def _picture(rng: np.random.Generator, _: float) -> _Content:
    """A PNG of 8 x 8 grey pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + rng.integers(0, 256, 8, dtype=np.uint8).tobytes() for _ in range(8))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    return _Content(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def _no_samples(_: np.random.Generator, __: float) -> _Content:
    return _Content(wav(b"", SAMPLE_RATE, channels=1, sample_bytes=2))


BROKEN_KINDS: dict[str, _Kind] = {
    "missing": _Kind("missing", ".wav", lambda rng, _: None),
    "zero_bytes": _Kind("empty", ".flac", lambda rng, _: _Content(b"")),
    "wav_without_samples": _Kind("empty", ".wav", _no_samples),
    "random_bytes": _Kind("undecodable", ".mp3", _random_bytes),
    "text_as_wav": _Kind("undecodable", ".wav", _text),
    "picture_as_flac": _Kind("undecodable", ".flac", _picture),
    "wav_cut": _Kind("truncated", ".wav", _cut("wav16", 0.6)),
    "flac_cut": _Kind("truncated", ".flac", _cut("flac", 0.6)),
    "mp3_cut": _Kind("truncated", ".mp3", _cut("mp3", 0.6)),
    "m4a_cut": _Kind("undecodable", ".m4a", _cut("m4a", 0.6)),  # its index stands at the end
    "vorbis_cut_in_headers": _Kind("undecodable", ".ogg", _cut_in_headers("vorbis")),
    "opus_cut_in_headers": _Kind("undecodable", ".opus", _cut_in_headers("opus")),
    "too_short": _Kind("too_short", ".wav", _of_samples(lambda rng: _sound(rng)[: SAMPLE_RATE // 100], "wav16")),
    "too_long_wav": _Kind("too_long", ".wav", _long_wav),
    "too_long_flac": _Kind("too_long", ".flac", _long_flac),
    "silent": _Kind("silent", ".flac", _of_samples(lambda rng: np.zeros_like(_sound(rng)), "flac")),
    "silent_hiss": _Kind("silent", ".wav", _of_samples(_hiss, "wav_float")),
    "nan": _Kind("non_finite", ".wav", _of_samples(_with_value(np.nan), "wav_float")),
    "infinite": _Kind("non_finite", ".wav", _of_samples(_with_value(np.inf), "wav_float")),
}
