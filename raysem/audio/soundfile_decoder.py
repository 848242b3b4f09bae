"""Decoding with libsndfile: wav, flac, ogg vorbis, mp3 and its many other formats."""

from __future__ import annotations

import numpy as np
import soundfile

from raysem.audio.containers import Container
from raysem.audio.sources import Source
from raysem.audio.waveform import Decoded, DecodeLimits, Segment, Waveform
from raysem.errors import ClipError

# Shapes: C channels, T samples.

# Values of one read: a hostile header never gets more memory than this beyond what the file really holds.
BLOCK_VALUES = 2**22
# libsndfile 1.2.2 seeks in mp3 of varying bit rate by guess, in the last page of Ogg Vorbis some 200 samples beside,
# and in an mp3 without a written length it stops at an estimate.
SEEKS_BY_GUESS = ("mp3", "ogg", "ogg_opus")
# mpg123 and libFLAC give SF_COUNT_MAX or an estimate when the length is not written down.
NO_LENGTH = 2**62


def decode_with_soundfile(source: Source, container: Container, segment: Segment, limits: DecodeLimits) -> Decoded:
    """The segment as libsndfile reads it; ClipError `undecodable` when it cannot, `too_long` over the limits."""
    source.handle.seek(0)
    try:
        with soundfile.SoundFile(source.local_path or source.handle) as file:
            return _read(file, container, segment, limits)
    except (RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        # RuntimeError: libsndfile's own; TypeError: a file named *.raw; MemoryError: thousands of channels
        # python-soundfile's message has the file object with its address: another one in each attempt
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise ClipError("undecodable", f"soundfile: {reason}") from error


def _read(file: soundfile.SoundFile, container: Container, segment: Segment, limits: DecodeLimits) -> Decoded:
    rate, channels = file.samplerate, file.channels
    if rate < 1 or channels < 1:
        raise ValueError(f"{channels} channels at {rate} Hz")
    total = container.promised_samples
    if total is None and container.kind != "mp3" and file.frames < NO_LENGTH:
        total = file.frames
    promised = None if total is None else segment.expected_samples(total, rate)
    if container.kind == "wav":  # its header may claim anything; here libsndfile has counted the bytes
        limits.check(segment.expected_samples(file.frames, rate), rate, channels)
    elif promised is not None:
        limits.check(promised, rate, channels)
    first, wanted = segment.first_sample(rate), segment.num_samples(rate)
    if container.kind in SEEKS_BY_GUESS:
        # python-soundfile seeks after each read, too: one read from the start is all that is right.
        one_read = min(wanted or NO_LENGTH, file.frames if total is None else total) * channels <= BLOCK_VALUES
        if first or not one_read or (container.kind == "mp3" and total is None):
            raise ValueError(f"does not seek exactly in {container.kind}")
    if first:
        file.seek(min(first, file.frames))
    samples_TC = _read_blocks(file, wanted, limits)
    samples_CT = np.ascontiguousarray(samples_TC.T)
    return Decoded(Waveform(samples_CT, rate), promised, frame_samples=1152 if container.kind == "mp3" else 0)


def _read_blocks(file: soundfile.SoundFile, wanted: int | None, limits: DecodeLimits) -> np.ndarray:
    rate, channels = file.samplerate, file.channels
    block_samples = max(1, BLOCK_VALUES // channels)
    blocks: list[np.ndarray] = []
    num_samples = 0
    while wanted is None or num_samples < wanted:
        size = block_samples if wanted is None else min(block_samples, wanted - num_samples)
        block_TC = file.read(size, dtype="float32", always_2d=True)
        if not len(block_TC):
            break
        blocks.append(block_TC)
        num_samples += len(block_TC)
        limits.check(num_samples, rate, channels)
        if len(block_TC) < size:
            break
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.empty((0, channels), dtype=np.float32)
