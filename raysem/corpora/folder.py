"""Any folder of audio, with or without a csv.

Layout: audio files anywhere below the root. With `csv`, one row per clip (or per caption, with `group_rows`) and a
column with each file's path below the folder; the file may have another audio extension than the csv says. Without,
every audio file is a clip.
Licence and folds: the folder's own.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AudioFiles, Names, Record, first_existing, inside, read_csv, require_folder
from raysem.errors import DataError

NEEDS = "audio files, and the csv if one is named"


class FolderOptions(Settings):
    """Which column of the csv is what."""

    csv: str | None = None
    """The table, below the root; none: every audio file is a clip."""
    source: str = "folder"
    """Name of the corpus: the column `source`, and the beginning of every clip_id."""
    audio_folder: str = ""
    """Folder below the root that the paths in the csv start from."""
    path_column: str = "file"
    id_column: str | None = None
    """None: the path without its extension, and the start of the segment where there is one."""
    caption_column: Names = ()
    label_column: Names = ()
    label_separator: str | None = None
    """Splits a label column that holds several, such as ";"."""
    start_column: str | None = None
    """Start of the segment in the file, in seconds."""
    duration_column: str | None = None
    fold_column: str | None = None
    split_column: str | None = None
    delimiter: str | None = None
    """None: a tab for .tsv, else a comma."""
    group_rows: bool = False
    """Rows with the same clip_id are one clip with several captions and labels; else a repeated id is an error."""
    labels_from_folders: bool = False
    """The folder that a file stands in is its label."""


def read_folder(root: str, options: FolderOptions | None = None) -> Iterator[ClipRow]:
    """The clips of a folder, in the order of the csv, or of their names."""
    options = options or FolderOptions()
    location = require_folder(root, NEEDS)
    audio_root = location
    if options.audio_folder:
        audio_root = storage.join(location, inside(location, options.audio_folder, "audio_folder"))
    require_folder(audio_root, NEEDS)
    files = AudioFiles(audio_root)
    if options.csv is None:
        yield from _every_file(files, options)
        return
    table = first_existing(location, [inside(location, options.csv, "csv")], NEEDS)
    rows = (_clip(record, files, options) for record in read_csv(table, _columns(options), delimiter=options.delimiter))
    yield from _grouped(rows) if options.group_rows else rows


def _every_file(files: AudioFiles, options: FolderOptions) -> Iterator[ClipRow]:
    if not len(files):
        raise DataError(f"{files.folder}: no audio file below it; there must be {NEEDS}")
    for path in files.relative_paths():
        yield ClipRow(
            clip_id=f"{options.source}/{path}",
            source=options.source,
            place=storage.join(files.folder, path),
            path=storage.join(files.folder, path),
            labels=_folder_label(path) if options.labels_from_folders else (),
        )


def _columns(options: FolderOptions) -> list[str]:
    single = [
        options.id_column,
        options.start_column,
        options.duration_column,
        options.fold_column,
        options.split_column,
    ]
    named = [options.path_column, *options.caption_column, *options.label_column, *single]
    return list(dict.fromkeys(column for column in named if column))


def _clip(record: Record, files: AudioFiles, options: FolderOptions) -> ClipRow:
    path = inside(files.folder, record.text(options.path_column), record.place)
    found = files.find(path, record.place)
    start = record.number(options.start_column) if options.start_column else None
    fold = options.fold_column
    labels = tuple(label for column in options.label_column for label in _labels(record, column, options))
    if options.labels_from_folders:
        labels = (*labels, *_folder_label(path))
    return ClipRow(
        clip_id=f"{options.source}/{_identifier(record, path, start, options)}",
        source=options.source,
        place=record.place,
        path=found or storage.join(files.folder, path),
        start_seconds=start,
        duration_seconds=record.number(options.duration_column) if options.duration_column else None,
        captions=tuple(text for column in options.caption_column if (text := record.values[column].strip())),
        labels=tuple(dict.fromkeys(labels)),
        fold=record.whole_number(fold, 0, 2**31 - 1) if fold else None,
        split=record.values[options.split_column].strip() or None if options.split_column else None,
        problem=None if found else ("missing", f"no file {path!r} below {files.folder}"),
    )


def _identifier(record: Record, path: str, start: float | None, options: FolderOptions) -> str:
    if options.id_column:
        return record.text(options.id_column)
    stem = posixpath.splitext(path)[0]
    return stem if start is None else f"{stem}_{start:.3f}"


def _labels(record: Record, column: str, options: FolderOptions) -> list[str]:
    text = record.values[column]
    parts = text.split(options.label_separator) if options.label_separator else [text]
    return [part.strip() for part in parts if part.strip()]


def _folder_label(path: str) -> tuple[str, ...]:
    folder = posixpath.basename(posixpath.dirname(path))
    return (folder,) if folder else ()


def _grouped(rows: Iterator[ClipRow]) -> Iterator[ClipRow]:
    clips: dict[str, ClipRow] = {}
    for row in rows:
        first = clips.get(row.clip_id)
        if first is None:
            clips[row.clip_id] = row
            continue
        for name in ("path", "start_seconds", "duration_seconds", "fold", "split"):
            if getattr(row, name) != getattr(first, name):
                raise DataError(
                    f"{row.place}: clip_id {row.clip_id!r} has {name} {getattr(row, name)!r} here and "
                    f"{getattr(first, name)!r} at {first.place}"
                )
        clips[row.clip_id] = replace(
            first,
            captions=tuple(dict.fromkeys((*first.captions, *row.captions))),
            labels=tuple(dict.fromkeys((*first.labels, *row.labels))),
        )
    yield from clips.values()
