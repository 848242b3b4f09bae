"""Clotho v2.1: 15 to 30 s clips of Freesound, 5 captions each; 3839 / 1045 / 1045 clips. Drossos et al., ICASSP 2020.

Layout: `clotho_captions_<split>.csv` (file_name, caption_1 ... caption_5), or the same captions one a row in
`clotho_v2.1_<split>.csv.gz` (fname, caption); the audio in `<split>/` or `clotho_audio_<split>/`, where split is
development, validation or evaluation. File names hold spaces and signs of all kinds.
Licence: captions Tampere University, non-commercial with attribution; each clip its Creative Commons licence.
No folds; `split` as above.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Literal

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, first_existing, inside, read_csv, require_folder, split_tables
from raysem.errors import DataError

NEEDS = "clotho_captions_<split>.csv and the folders <split>/ (development, validation, evaluation)"
SPLITS = ("development", "validation", "evaluation")
CAPTION_COLUMNS = tuple(f"caption_{number}" for number in range(1, 6))


class ClothoOptions(Settings):
    """Options of Clotho."""

    split: tuple[Literal["development", "validation", "evaluation"], ...] = ()
    """None named: every split whose csv is there."""


def read_clotho(root: str, options: ClothoOptions | None = None) -> Iterator[ClipRow]:
    """The clips split by split, each with all of its captions."""
    options = options or ClothoOptions()
    location = require_folder(root, NEEDS)
    tables = split_tables(location, {split: _candidates(split) for split in SPLITS}, options.split, NEEDS)
    for split, table in tables.items():
        folders = [split, f"clotho_audio_{split}", f"clotho_audio_files/{split}", f"audio/{split}"]
        yield from _read_split(split, table, AudioFiles(first_existing(location, folders, NEEDS)))


def _read_split(split: str, table: str, files: AudioFiles) -> Iterator[ClipRow]:
    for name, (place, captions) in _captions_of_files(table).items():
        path = inside(files.folder, name, place)
        found = files.find(path, place)
        yield ClipRow(
            clip_id=f"clotho/{split}/{posixpath.splitext(path)[0]}",
            source="clotho",
            place=place,
            path=found or storage.join(files.folder, path),
            captions=tuple(dict.fromkeys(captions)),
            split=split,
            problem=None if found else ("missing", f"no audio file {path!r} in {files.folder}"),
        )


def _captions_of_files(table: str) -> dict[str, tuple[str, list[str]]]:
    """Place and captions of each file name, in the order of the csv."""
    clips: dict[str, tuple[str, list[str]]] = {}
    for record in read_csv(table):
        if "file_name" in record.values:
            name, wide = record.text("file_name"), True
        elif "fname" in record.values and "caption" in record.values:
            name, wide = record.text("fname"), False
        else:
            there = ", ".join(record.values)
            raise DataError(f"{table}: no column 'file_name' (or 'fname' and 'caption'); there are {there}")
        if not wide:
            clips.setdefault(name, (record.place, []))[1].append(record.text("caption"))
            continue
        if name in clips:
            raise DataError(f"{record.place}: file_name {name!r} was already used at {clips[name][0]}")
        absent = [column for column in CAPTION_COLUMNS if column not in record.values]
        if absent:
            raise DataError(f"{table}: no column {absent[0]!r}; there are {', '.join(record.values)}")
        clips[name] = (record.place, [record.text(column) for column in CAPTION_COLUMNS])
    return clips


def _candidates(split: str) -> list[str]:
    stems = [f"clotho_captions_{split}", f"clotho_csv_files/clotho_captions_{split}", f"clotho_v2.1_{split}"]
    return [f"{stem}.csv{suffix}" for stem in stems for suffix in ("", ".gz")]
