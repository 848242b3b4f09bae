"""Captions without audio: every csv (or csv.gz) below the root, such as the tables of AudioCaps, Clotho, WavText5K.

Layouts known by their columns:
- `caption` (AudioCaps: audiocap_id, youtube_id, start_time, caption; Clotho with one row per caption: fname, caption);
- `caption_1` ... `caption_5` (Clotho's own);
- `title` and `description` (WavText5K): the description, or the title where there is none;
- anything else with `text_column`.
Licences: AudioCaps for academic purposes only; Clotho non-commercial, with attribution; WavText5K MIT. No folds.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import CaptionRow
from raysem.corpora.sources import Names, Record, inside, read_csv, require_folder, walk_files
from raysem.errors import DataError

NEEDS = "csv or csv.gz files with a column of captions"
KNOWN_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("caption",),
    ("caption_1", "caption_2", "caption_3", "caption_4", "caption_5"),
    ("description", "title"),
)


class CaptionOptions(Settings):
    """Which files, and which columns of them."""

    csv: Names = ()
    """The tables, below the root; none named: every .csv, .csv.gz and .tsv below it."""
    text_column: Names = ()
    """Columns with a caption each; none named: by the layouts known."""
    source: str | None = None
    """None: the folder that a table stands in, or its name at the root."""
    split: str | None = None
    """Only the tables whose name holds this word, such as `train` or `development`."""


def read_captions(root: str, options: CaptionOptions | None = None) -> Iterator[CaptionRow]:
    """Every caption as written, table by table; duplicates become one in the captions table."""
    options = options or CaptionOptions()
    location = require_folder(root, NEEDS)
    if options.csv:
        tables = [inside(location, name, "csv") for name in options.csv]
    else:
        tables = [name for name in walk_files(location) if name.removesuffix(".gz").endswith((".csv", ".tsv"))]
    if options.split is not None:
        tables = [name for name in tables if options.split in posixpath.basename(name)]
    if not tables:
        raise DataError(f"{location}: no table {options.split or ''} there; at this root there must be {NEEDS}")
    for name in tables:
        yield from _read_table(location, name, options)


def _read_table(root: str, name: str, options: CaptionOptions) -> Iterator[CaptionRow]:
    stem = posixpath.basename(name).split(".")[0]
    source = options.source or posixpath.basename(posixpath.dirname(name)) or stem
    columns: tuple[str, ...] = ()
    for record in read_csv(storage.join(root, name), options.text_column):
        columns = columns or options.text_column or _known_columns(record, storage.join(root, name))
        texts = [record.values[column].strip() for column in columns]
        if columns == ("description", "title"):
            texts = [next((text for text in texts if text), "")]
        for text in texts:
            if text:
                yield CaptionRow(text, source, record.place)


def _known_columns(record: Record, location: str) -> tuple[str, ...]:
    for columns in KNOWN_COLUMNS:
        if all(column in record.values for column in columns):
            return columns
    there = ", ".join(record.values)
    raise DataError(f"{location}: no column of captions is known there; name it with text_column; there are {there}")
