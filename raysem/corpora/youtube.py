"""Audio files of AudioSet and AudioCaps on a disk: cut from YouTube by many scripts, named in as many ways."""

from __future__ import annotations

import re

from raysem.corpora.sources import AudioFiles
from raysem.errors import DataError

SEGMENT_SECONDS = 10.0
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")


def check_video_id(video_id: str, place: str) -> str:
    """`video_id` if it is one: 11 letters, digits, "-" or "_"."""
    if not _VIDEO_ID.fullmatch(video_id):
        raise DataError(f"{place}: {video_id!r} is no YouTube id (11 letters, digits, '-' or '_')")
    return video_id


def segment_name(video_id: str, start_seconds: float) -> str:
    """`<id>_<start>`, the start in whole seconds where it is whole: unique within AudioSet and within AudioCaps."""
    return f"{video_id}_{start_seconds:g}"


def file_names(video_id: str, start_seconds: float, end_seconds: float) -> list[str]:
    """The names, without extension, that the segment's file may have, the most exact first.

    `<id>_<start>_<end>`, `<id>_<start>`, `<id>`; the times in seconds (30, 30.0, 30.000, 000030) or in milliseconds
    (30000); each with and without the leading Y that keeps an id from beginning with "-". AudioSet and AudioCaps have
    one segment a video, so that the bare id is enough.
    """
    starts, ends = _spellings(start_seconds), _spellings(end_seconds)
    suffixes = [f"_{start}_{end}" for start, end in zip(starts, ends, strict=True)]
    suffixes += [f"_{start}" for start in starts]
    names = [f"{video_id}{suffix}" for suffix in [*suffixes, ""]]
    return list(dict.fromkeys(name for plain in names for name in (plain, f"Y{plain}")))


def find_segment(files: AudioFiles, video_id: str, start_seconds: float, end_seconds: float, place: str) -> str | None:
    """The location of the segment's file, or None."""
    found = (files.find_stem(name, place) for name in file_names(video_id, start_seconds, end_seconds))
    return next((location for location in found if location), None)


def _spellings(seconds: float) -> list[str]:
    return [f"{seconds:g}", f"{seconds:.1f}", f"{seconds:.3f}", f"{int(seconds):06d}", f"{round(seconds * 1000)}"]
