"""Decoding with PyAV (FFmpeg): m4a, mp4, webm, Ogg Opus, and whatever libsndfile refuses or cuts short."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.codec.context import Flags2

from raysem.audio.containers import Container
from raysem.audio.sources import Source
from raysem.audio.waveform import Decoded, DecodeLimits, Segment, Waveform
from raysem.errors import ClipError

# Shapes: C channels, T samples.

# Only formats that hold sound in the file itself: a playlist (hls, concat) would make FFmpeg open other files and URLs.
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,eac3,flac,flv,loas,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,"
    "oga,ogg,tak,tta,voc,w64,wav,wv"
)
# Without a table of samples FFmpeg estimates their length and seeks by guess.
FORMATS_WITHOUT_LENGTH = {"mp3", "aac", "loas", "ac3", "eac3", "amr", "mpeg", "mpegts", "avi", "flv", "asf"}
# Decoding what precedes costs less than a seek below this, and cannot go wrong.
SEEK_FROM_SECONDS = 10.0
# Decoded and thrown away after a seek, so that codecs with a memory have settled (Opus asks for 0.08 s).
PREROLL_SECONDS = 1
# PyAV 18 counts the planes of a frame up to a null pointer; beyond 8 there is none, and it reads what lies behind.
MAX_PLANES = 8
# A held frame costs about a kilobyte however few samples it has: a hostile file has frames of one sample.
FRAMES_PER_BLOCK = 1024

# FFmpeg's sample formats (planar ones end in p): type, and full scale of the integer ones.
SAMPLE_TYPES: dict[str, tuple[str, float | None]] = {
    "u8": ("u1", 2.0**7),
    "s16": ("i2", 2.0**15),
    "s32": ("i4", 2.0**31),
    "s64": ("i8", 2.0**63),
    "flt": ("f4", None),
    "dbl": ("f8", None),
}


@dataclass(frozen=True)
class _OpusGrid:
    """Where Opus frames can begin: their lengths are multiples of 2.5 ms, counted from before the clip's start."""

    pre_skip: int

    def nearest(self, position: int) -> int:
        return round((position + self.pre_skip) / 120) * 120 - self.pre_skip


@dataclass
class _Reader:
    """An audio stream, the decoder for it, and where its samples begin."""

    container: Any
    stream: Any
    decoder: Any
    skipped_samples: int
    """Samples before the clip's first that come out of the decoder (Opus pre-skip)."""
    opus_grid: _OpusGrid | None = None
    failed_packets: int = 0
    good_packets: int = 0

    def frames(self) -> Iterator[AudioFrame]:
        """Decoded frames; packets that cannot be decoded are counted and left out, as ffmpeg does."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:  # the container breaks off here
                return
            try:
                frames = self.decoder.decode(packet)
                self.good_packets += 1
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.failed_packets += 1
                continue
            yield from frames


def decode_with_pyav(source: Source, container: Container, segment: Segment, limits: DecodeLimits) -> Decoded:
    """The segment as FFmpeg reads it; ClipError `undecodable` when it cannot, `too_long` over the limits."""
    try:
        if segment.start_seconds >= SEEK_FROM_SECONDS:
            decoded = _decode(source, container, segment, limits, seek=True)
            if decoded is not None:
                return decoded
        decoded = _decode(source, container, segment, limits, seek=False)
    except (av.error.FFmpegError, ValueError, TypeError, OSError, MemoryError, OverflowError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else error  # without number and file object
        raise ClipError("undecodable", f"PyAV: {reason}") from error
    if decoded is None:
        raise ClipError("undecodable", "PyAV: no sound could be decoded")
    return decoded


def _decode(
    source: Source, container: Container, segment: Segment, limits: DecodeLimits, *, seek: bool
) -> Decoded | None:
    """None: nothing was decoded, or the place of the first sample after a seek is not known."""
    source.handle.seek(0)
    options = {"format_whitelist": FORMATS}
    with av.open(source.handle, mode="r", metadata_errors="ignore", options=options) as opened:
        reader = _open_reader(opened, container)
        frames = reader.frames()
        first = next(frames, None)
        if first is None:
            return None
        rate, channels = first.sample_rate, first.layout.nb_channels
        if rate < 1 or channels < 1:
            raise ValueError(f"{channels} channels at {rate} Hz")
        total = container.promised_samples
        if total is None:
            total = _promised_samples(reader, rate)
        promised = None if total is None else segment.expected_samples(total, rate)
        if promised is not None and container.kind != "wav":
            limits.check(promised, rate, channels)
        begin = segment.first_sample(rate)
        wanted = segment.num_samples(rate)
        if promised is not None and (container.kind == "ogg_opus" or opened.format.name.startswith("mov")):
            wanted = promised  # what follows is the encoder's padding (Opus: see _open_reader)
        position = -reader.skipped_samples
        if seek:
            landed = _seek(reader, first, rate, begin)
            if landed is None:
                return None
            position, first = landed
            frames = reader.frames()
        samples_CT = _collect(itertools.chain([first], frames), first, position, begin, wanted, limits)
        if reader.failed_packets > reader.good_packets:
            raise ValueError(f"{reader.failed_packets} of its packets cannot be decoded")
        frame_samples = 0 if reader.stream.codec_context.codec.lossless else first.samples
        return Decoded(Waveform(samples_CT, rate), promised, frame_samples)


def _open_reader(opened: Any, container: Container) -> _Reader:
    if not opened.streams.audio:
        raise ValueError("holds no sound")
    stream = opened.streams.best("audio") or opened.streams.audio[0]
    for other in opened.streams:
        if other is not stream and other.codec_context is not None:
            other.codec_context.skip_frame = "ALL"
    if stream.codec_context is None:
        raise ValueError("no decoder for its codec")
    if stream.codec_context.name not in ("opus", "libopus") or "libopus" not in av.codecs_available:
        return _Reader(opened, stream, stream.codec_context, 0)
    # libopus, the reference: FFmpeg's own decoder is off by up to -15 dB where a frame is coded with SILK.
    decoder: Any = av.CodecContext.create("libopus", "r")
    header = stream.codec_context.extradata
    if header:
        decoder.extradata = header
    decoder.sample_rate = 48_000
    decoder.options = {"request_sample_fmt": "flt"}  # 16-bit output would clip
    if not header or len(header) < 12:
        return _Reader(opened, stream, decoder, 0)
    grid = _OpusGrid(int.from_bytes(header[10:12], "little"))
    if container.kind != "ogg_opus":
        return _Reader(opened, stream, decoder, 0, grid)
    # Some files by FFmpeg's own muxer have page positions that are too late by a few hundred samples; trimmed by these,
    # as many are lost at the end. The sound itself is whole: so decode all of it and trim by the header.
    decoder.flags2 |= Flags2.skip_manual
    return _Reader(opened, stream, decoder, grid.pre_skip, grid)


def _promised_samples(reader: _Reader, rate: int) -> int | None:
    """Samples that the container says the stream has; None where FFmpeg only estimates it."""
    if set(reader.container.format.name.split(",")) & FORMATS_WITHOUT_LENGTH:
        return None
    stream = reader.stream
    if stream.duration:  # 0 in a fragmented mp4: not known
        return max(0, round(stream.duration * stream.time_base * rate) - reader.skipped_samples)
    tagged = _parse_clock(stream.metadata.get("DURATION", ""))
    if tagged is not None:
        return round(tagged * rate)
    if len(reader.container.streams) == 1 and reader.container.duration is not None:
        return max(0, round(reader.container.duration * rate / av.time_base))
    return None


def _parse_clock(text: str) -> float | None:
    """Seconds of Matroska's `00:00:05.006000000`."""
    parts = text.split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def _seek(reader: _Reader, first: AudioFrame, rate: int, begin: int) -> tuple[int, AudioFrame] | None:
    """Go to a second before sample `begin`: the frame decoded there and its position; None if that is not sure."""
    origin_seconds = _seconds(first)
    if origin_seconds is None or set(reader.container.format.name.split(",")) & FORMATS_WITHOUT_LENGTH:
        return None
    if reader.opus_grid is not None:
        origin_seconds += Fraction(reader.opus_grid.pre_skip, rate)
    target_seconds = origin_seconds + max(Fraction(0), Fraction(begin, rate) - PREROLL_SECONDS)
    reader.container.seek(round(target_seconds / reader.stream.time_base), stream=reader.stream)
    reader.decoder.flush_buffers()
    landed = next(itertools.islice(reader.frames(), 1, None), None)  # the first lacks a part that FFmpeg trims again
    landed_seconds = None if landed is None else _seconds(landed)
    if landed is None or landed_seconds is None:
        return None
    position = round((landed_seconds - origin_seconds) * rate)
    if reader.stream.time_base > Fraction(1, rate):  # Matroska counts milliseconds
        if reader.opus_grid is None:
            return None
        position = reader.opus_grid.nearest(position)
    return (position, landed) if position <= begin - rate * PREROLL_SECONDS / 2 else None


def _seconds(frame: AudioFrame) -> Fraction | None:
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def _collect(
    frames: Iterator[AudioFrame],
    first: AudioFrame,
    position: int,
    begin: int,
    wanted: int | None,
    limits: DecodeLimits,
) -> np.ndarray:
    """Samples [begin, begin + wanted) of frames that start at `position`."""
    rate, channels = first.sample_rate, first.layout.nb_channels
    end = None if wanted is None else begin + wanted
    blocks: list[np.ndarray] = []
    pieces: list[np.ndarray] = []
    num_samples = 0
    for frame in frames:
        if end is not None and position >= end:
            break
        if frame.sample_rate != rate or frame.layout.nb_channels != channels:
            raise ValueError(
                f"changes from {channels} channels at {rate} Hz to {frame.layout.nb_channels} at {frame.sample_rate}"
            )
        start, stop = max(0, begin - position), frame.samples if end is None else min(frame.samples, end - position)
        position += frame.samples
        if start < stop:
            num_samples += stop - start
            limits.check(num_samples, rate, channels)
            pieces.append(_frame_samples(frame, channels)[:, start:stop])
        if len(pieces) == FRAMES_PER_BLOCK:
            blocks.append(np.concatenate(pieces, axis=1))
            pieces = []
    if pieces or not blocks:
        blocks.append(np.concatenate([np.empty((channels, 0), dtype=np.float32), *pieces], axis=1))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def _frame_samples(frame: AudioFrame, channels: int) -> np.ndarray:
    """(C, samples), float32 in [-1, 1]. `AudioFrame.to_ndarray` takes a third as long as libopus."""
    name = frame.format.name
    if name.endswith("p") and channels > MAX_PLANES:
        raise ValueError(f"{channels} channels")
    planes: Any = frame.planes  # buffers, which PyAV's stubs do not say
    if name.removesuffix("p") not in SAMPLE_TYPES:
        raise ValueError(f"sample format {name}")
    dtype, full_scale = SAMPLE_TYPES[name.removesuffix("p")]
    if name.endswith("p"):
        values_CT = np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes[:channels]])
    else:
        values_CT = np.frombuffer(planes[0], dtype, frame.samples * channels).reshape(-1, channels).T
    if full_scale is None:
        with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are an outcome of their own
            return values_CT.astype(np.float32, copy=False)
    middle = full_scale if dtype == "u1" else 0
    return (values_CT.astype(np.float32) - np.float32(middle)) / np.float32(full_scale)
