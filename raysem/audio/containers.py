"""What a container promises, read from its own header where the decoders do not tell.

libsndfile clips the length in a wav header to the file's and estimates an mp3's length from its bit rate; FFmpeg does
the latter too. Only the first and last kilobytes of a file are read here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Literal

HEAD_BYTES = 4096
# An Ogg page is at most 27 + 255 + 255 * 255 bytes.
MAX_OGG_PAGE_BYTES = 65_307
UNKNOWN_SIZE = 0xFFFFFFFF
PCM, IEEE_FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
MAX_CHUNKS = 100


@dataclass(frozen=True)
class Container:
    """The container's kind and what it says about its length."""

    kind: Literal["wav", "mp3", "ogg_opus", "ogg", "other"]
    promised_samples: int | None = None
    """Samples per channel that a wav or mp3 header promises; None: no word about it here."""
    is_cut: bool = False
    """The file ends in the middle of an Ogg page."""


def inspect_container(handle: IO[bytes]) -> Container:
    """Look at a file's head (and an Ogg file's tail); the position is moved."""
    handle.seek(0)
    head = handle.read(HEAD_BYTES)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return Container("wav", _wav_samples(handle, head))
    if head[:4] == b"OggS":
        return Container("ogg_opus" if b"OpusHead" in head[:256] else "ogg", is_cut=_ogg_is_cut(handle))
    if head[:3] == b"ID3" and len(head) >= 10:
        handle.seek(10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
        head = handle.read(HEAD_BYTES)
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # MPEG sync, layer III
        return Container("mp3", _mp3_samples(head))
    return Container("other")


def _wav_samples(handle: IO[bytes], head: bytes) -> int | None:
    """The data chunk's size in samples; None for coded audio and for streams of unknown length.

    A writer that cannot seek back (ffmpeg to a pipe) leaves both sizes at 2**32 - 1: that is no promise.
    """
    riff_size = int.from_bytes(head[4:8], "little")
    block_bytes: int | None = None
    position = 12
    for _ in range(MAX_CHUNKS):
        handle.seek(position)
        chunk = handle.read(8)
        if len(chunk) < 8:
            return None
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"fmt ":
            layout = handle.read(16)
            if len(layout) < 16:
                return None
            code, channels, _, _, block, bits = struct.unpack("<HHIIHH", layout)
            is_linear = code in (PCM, IEEE_FLOAT, A_LAW, MU_LAW, EXTENSIBLE) and block == channels * ((bits + 7) // 8)
            block_bytes = block if is_linear else None
        elif name == b"data":
            is_stream = size == riff_size == UNKNOWN_SIZE
            return None if is_stream or not block_bytes else size // block_bytes
        position += 8 + size + size % 2
    return None


def _mp3_samples(head: bytes) -> int | None:
    """Samples by the frame count of a Xing or Info header, less the encoder's delay and padding (LAME)."""
    is_mpeg1, is_mono = head[1] & 0x18 == 0x18, head[3] & 0xC0 == 0xC0
    side_bytes = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    tag = head[4 + side_bytes :]
    if tag[:4] not in (b"Xing", b"Info") or len(tag) < 12 or not tag[7] & 1:
        return None
    num_frames = int.from_bytes(tag[8:12], "big")
    samples = num_frames * (1152 if is_mpeg1 else 576)
    if tag[7] & 0xF == 0xF and tag[120:124] in (b"LAME", b"Lavc", b"Lavf"):
        trimmed = int.from_bytes(tag[141:144], "big")
        samples -= (trimmed >> 12) + (trimmed & 0xFFF)
    return max(0, samples)


def _ogg_is_cut(handle: IO[bytes]) -> bool:
    size = handle.seek(0, 2)
    handle.seek(max(0, size - MAX_OGG_PAGE_BYTES))
    tail = handle.read(MAX_OGG_PAGE_BYTES)
    # The four bytes may occur within a page's data by chance: only a header of version 0 with a sane flag counts.
    at = tail.rfind(b"OggS\0")
    while at >= 0 and len(tail) > at + 5 and tail[at + 5] > 7:
        at = tail.rfind(b"OggS\0", 0, at)
    if at < 0:
        return False
    num_segments = tail[at + 26] if len(tail) > at + 26 else 0
    table = tail[at + 27 : at + 27 + num_segments]
    is_whole_header = len(tail) >= at + 27 and len(table) == num_segments
    return not is_whole_header or at + 27 + num_segments + sum(table) > len(tail)
