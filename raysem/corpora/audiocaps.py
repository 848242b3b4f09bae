"""AudioCaps: human captions of 10 s AudioSet segments; 1 a clip in train, 5 in val and test. Kim et al., NAACL 2019.

Layout: `train.csv`, `val.csv`, `test.csv` at the root or in `dataset/` (audiocap_id, youtube_id, start_time, caption;
also as `audiocaps_v1_<split>.csv.gz`), and the audio anywhere in `audio/`, named by YouTube id as in youtube.py.
Licence: captions MIT file, "free to use for academic purposes only"; the videos their owners'.
No folds; `split` is train, val or test. v1 has 49,838 / 2,475 / 4,875 captions. Many videos are gone: a clip without a
file is a reject, unless asked otherwise. AudioCaps is part of AudioSet: same YouTube ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, read_csv, require_folder, split_tables
from raysem.corpora.youtube import SEGMENT_SECONDS, check_video_id, find_segment, segment_name
from raysem.errors import DataError

NEEDS = "train.csv, val.csv or test.csv (also in dataset/), and audio/"
SPLITS = ("train", "val", "test")


class AudioCapsOptions(Settings):
    """Options of AudioCaps."""

    split: tuple[Literal["train", "val", "test"], ...] = ()
    """None named: every split whose csv is there."""
    version: Literal["v1", "v2"] = "v1"
    """Which of the versioned names `audiocaps_<version>_<split>.csv` is read, where there are such."""
    audio_folder: str = "audio"
    """Folder with the files, below the root."""
    whole_videos: bool = False
    """The files are whole videos: the clip is a start and a duration in them. Else each file is its clip."""


@dataclass
class _Clip:
    place: str
    captions: list[str] = field(default_factory=list)


def read_audiocaps(root: str, options: AudioCapsOptions | None = None) -> Iterator[ClipRow]:
    """The clips split by split, each with all of its captions."""
    options = options or AudioCapsOptions()
    location = require_folder(root, NEEDS)
    candidates = {split: _candidates(split, options.version) for split in SPLITS}
    tables = split_tables(location, candidates, options.split, NEEDS)
    files = AudioFiles(require_folder(storage.join(location, options.audio_folder), "the audio of AudioCaps"))
    for split, table in tables.items():
        yield from _read_split(split, table, files, options)


def _read_split(split: str, table: str, files: AudioFiles, options: AudioCapsOptions) -> Iterator[ClipRow]:
    clips: dict[tuple[str, float], _Clip] = {}
    captions_seen: dict[str, str] = {}
    for record in read_csv(table, ["audiocap_id", "youtube_id", "start_time", "caption"]):
        identifier = record.text("audiocap_id")
        if identifier in captions_seen:
            raise DataError(f"{record.place}: audiocap_id {identifier} was already used at {captions_seen[identifier]}")
        captions_seen[identifier] = record.place
        video_id = check_video_id(record.text("youtube_id"), record.place)
        start = record.number("start_time")
        clip = clips.setdefault((video_id, start), _Clip(record.place))
        clip.captions.append(record.text("caption"))
    for (video_id, start), clip in clips.items():
        name = segment_name(video_id, start)
        found = find_segment(files, video_id, start, start + SEGMENT_SECONDS, clip.place)
        yield ClipRow(
            clip_id=f"audiocaps/{name}",
            source="audiocaps",
            place=clip.place,
            path=found or storage.join(files.folder, f"{name}.wav"),
            start_seconds=start if options.whole_videos else None,
            duration_seconds=SEGMENT_SECONDS if options.whole_videos else None,
            captions=tuple(dict.fromkeys(clip.captions)),
            split=split,
            problem=None if found else ("missing", f"no audio file of {name} in {files.folder}"),
        )


def _candidates(split: str, version: str) -> list[str]:
    stems = [split, f"dataset/{split}", f"audiocaps_{version}_{split}"]
    return [f"{stem}.csv{suffix}" for stem in stems for suffix in ("", ".gz")]
