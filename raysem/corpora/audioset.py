"""AudioSet: 2.1 million 10 s segments of YouTube videos, 527 classes. Gemmeke et al., ICASSP 2017.

Layout: `balanced_train_segments.csv`, `unbalanced_train_segments.csv`, `eval_segments.csv` (those that are there; or
.csv.gz), `class_labels_indices.csv` or `ontology.json` for the names of the classes, and the audio anywhere in
`audio/`, named by YouTube id as in youtube.py. The csv circulates in two forms, both are read:
- Google's: three comment lines, the last of them the header; `id, 0.000, 10.000, "/m/09x0r,/t/dd00088"`;
- a plain one with the header `YTID,start_seconds,end_seconds,positive_labels`.
Licence: csv and labels CC BY 4.0, ontology CC BY-SA 4.0; the videos their owners'.
No folds; `split` is balanced_train, unbalanced_train or eval. Many videos are gone: a segment without a file is a
reject, unless asked otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, Record, find_first, open_text, read_csv, require_folder, split_tables
from raysem.corpora.youtube import check_video_id, find_segment, segment_name
from raysem.errors import DataError
from raysem.ontology.graph import read_nodes

NEEDS = "balanced_train_segments.csv, unbalanced_train_segments.csv or eval_segments.csv, class names, and audio/"
PARTS = ("balanced_train", "unbalanced_train", "eval")
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")


class AudioSetOptions(Settings):
    """Options of AudioSet."""

    part: tuple[Literal["balanced_train", "unbalanced_train", "eval"], ...] = ()
    """None named: every part whose csv is there."""
    audio_folder: str = "audio"
    """Folder with the files, below the root."""
    whole_videos: bool = False
    """The files are whole videos: the segment is a start and a duration in them. Else each file is its segment."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One line of a segments csv; `labels` are machine ids such as /m/09x0r."""

    video_id: str
    start_seconds: float
    end_seconds: float
    labels: tuple[str, ...]
    place: str


def read_segments(location: str) -> Iterator[Segment]:
    """The segments of a csv in either form. Google's says how many there are: fewer is a cut download, an error."""
    declared, google = _google_header(location)
    count = 0
    for record in read_csv(location, COLUMNS, columns=COLUMNS if google else None, comment="#"):
        count += 1
        yield _segment(record)
    if declared is not None and count != declared:
        raise DataError(f"{location}: {count} segments, but its header says num_segs={declared}; cut short?")


def read_class_names(root: str) -> dict[str, str]:
    """Display name of each machine id, from `class_labels_indices.csv` (527) or else `ontology.json` (632)."""
    table = find_first(root, ["class_labels_indices.csv", "class_labels_indices.csv.gz"])
    if table is not None:
        return _names_in(table)
    ontology = find_first(root, ["ontology.json", "ontology/ontology.json"])
    if ontology is None:
        raise DataError(f"{root}: neither class_labels_indices.csv nor ontology.json is there for the class names")
    return {node["id"]: node["name"] for node in read_nodes(ontology)}


def _names_in(table: str) -> dict[str, str]:
    names, places = dict[str, str](), dict[str, str]()
    for record in read_csv(table, ["mid", "display_name"]):
        mid = record.text("mid")
        if mid in names:
            raise DataError(f"{record.place}: mid {mid!r} was already used at {places[mid]}")
        names[mid], places[mid] = record.text("display_name"), record.place
    return names


def read_audioset(root: str, options: AudioSetOptions | None = None) -> Iterator[ClipRow]:
    """The segments of all parts; `labels` are display names ("Male speech, man speaking")."""
    options = options or AudioSetOptions()
    location = require_folder(root, NEEDS)
    tables = split_tables(location, {part: _candidates(part) for part in PARTS}, options.part, NEEDS)
    names = read_class_names(location)
    folder = storage.join(location, options.audio_folder)
    files = AudioFiles(require_folder(folder, "the audio of AudioSet, named by YouTube id"))
    for part, table in tables.items():
        for segment in read_segments(table):
            yield _clip(segment, part, names, files, options)


def _clip(segment: Segment, part: str, names: dict[str, str], files: AudioFiles, options: AudioSetOptions) -> ClipRow:
    unknown = [label for label in segment.labels if label not in names]
    if unknown:
        raise DataError(f"{segment.place}: label {unknown[0]!r} has no name in the class list")
    name = segment_name(segment.video_id, segment.start_seconds)
    found = find_segment(files, segment.video_id, segment.start_seconds, segment.end_seconds, segment.place)
    whole = options.whole_videos
    return ClipRow(
        clip_id=f"audioset/{name}",
        source="audioset",
        place=segment.place,
        path=found or storage.join(files.folder, f"{name}.wav"),
        start_seconds=segment.start_seconds if whole else None,
        duration_seconds=segment.end_seconds - segment.start_seconds if whole else None,
        labels=tuple(names[label] for label in segment.labels),
        split=part,
        problem=None if found else ("missing", f"no audio file of {name} in {files.folder}"),
    )


def _candidates(part: str) -> list[str]:
    return [f"{folder}{part}_segments.csv{suffix}" for folder in ("", "csv/", "metadata/") for suffix in ("", ".gz")]


def _google_header(location: str) -> tuple[int | None, bool]:
    """The number of segments that the comments declare, and whether the first line is a comment at all."""
    with open_text(location) as lines:
        head = [next(lines, "") for _ in range(3)]
    declared = re.search(r"num_segs=(\d+)", head[1])
    return (int(declared.group(1)) if declared else None), head[0].startswith("#")


def _segment(record: Record) -> Segment:
    start, end = record.number("start_seconds"), record.number("end_seconds")
    if not 0 <= start < end:
        raise DataError(f"{record.place}: the segment goes from {start} to {end} seconds")
    labels = tuple(label.strip() for label in record.text("positive_labels").split(",") if label.strip())
    return Segment(check_video_id(record.text("YTID"), record.place), start, end, labels, record.place)
