"""Decode one clip: any common format, from bytes, a local path or a URI, whole or a segment, within limits."""

from __future__ import annotations

from collections.abc import Callable

from raysem.audio.containers import Container, inspect_container
from raysem.audio.pyav_decoder import decode_with_pyav
from raysem.audio.soundfile_decoder import decode_with_soundfile
from raysem.audio.sources import Source, open_source
from raysem.audio.waveform import Decoded, DecodeLimits, Segment, Waveform
from raysem.errors import ClipError
from raysem.remote import retried

__all__ = ["DecodeLimits", "Waveform", "decode"]

Decoder = Callable[[Source, Container, Segment, DecodeLimits], Decoded]


def decode(
    audio: bytes | str,
    *,
    start_seconds: float | None = None,
    duration_seconds: float | None = None,
    limits: DecodeLimits | None = None,
) -> Waveform:
    """All channels of a clip or of a segment of it, at the sample rate that the decoder returns.

    libsndfile first, and PyAV where it cannot, fails, or returns fewer samples than the container promises. Ogg Opus
    goes to PyAV first: the same samples to 1e-6 in half the time, and libsndfile 1.2.2 rejects or misreads one in six
    of the files that FFmpeg writes. A segment that reaches past the end is what lies before it.

    Args:
        audio: the file's bytes, a local path or a URI (`s3://...`).
        start_seconds, duration_seconds: the segment; None means from the beginning, to the end.

    Raises:
        ClipError: with outcome missing, empty, undecodable, truncated or too_long.
        StorageError: the disk or the store failed, again and again where that may pass; nothing else is raised.
    """
    limits = limits or DecodeLimits()
    segment = Segment.of(start_seconds, duration_seconds)

    def from_the_start() -> Waveform:
        with open_source(audio) as source:
            container = inspect_container(source.handle)
            return _first_whole(source, container, segment, limits).waveform

    return retried(from_the_start)


def _first_whole(source: Source, container: Container, segment: Segment, limits: DecodeLimits) -> Decoded:
    """The first decoder's answer that holds all that is promised, else the longer one if it is not noticeably short."""
    decoders: list[Decoder] = [decode_with_soundfile, decode_with_pyav]
    if container.kind == "ogg_opus":
        decoders.reverse()
    best: Decoded | None = None
    reasons: list[str] = []
    for decoder in decoders:
        try:
            decoded = decoder(source, container, segment, limits)
        except ClipError as error:
            if error.outcome != "undecodable":
                raise
            reasons.append(error.reason)
            continue
        if best is None or decoded.num_samples > best.num_samples:
            best = decoded
        if not decoded.is_below_promise:
            break
    if best is None:
        raise ClipError("undecodable", f"{source.name}: {'; '.join(reasons)}")
    _check_length(best, source, container, segment)
    return best


def _check_length(decoded: Decoded, source: Source, container: Container, segment: Segment) -> None:
    rate, num_samples = decoded.waveform.sample_rate, decoded.num_samples
    if decoded.is_short:
        promised = (decoded.promised_samples or 0) / rate
        raise ClipError(
            "truncated",
            f"{source.name}: its container promises {promised:.2f} s, {num_samples / rate:.2f} s can be decoded",
        )
    wanted = segment.num_samples(rate)
    if container.is_cut and (wanted is None or num_samples < wanted):
        raise ClipError("truncated", f"{source.name}: ends in the middle of a page, after {num_samples / rate:.2f} s")
    if not num_samples:
        where = "" if segment.is_whole else f" at {segment.start_seconds:g} s"
        raise ClipError("empty", f"{source.name}: no samples{where}")
