"""Any Parquet files in the layout of Hugging Face's audio datasets, packed or not.

Layout: .parquet files anywhere below the root (or the root is one), with a column `audio` struct<bytes, path> (or plain
bytes, or a path as text). Paths are below the root. Text and label columns are named by options; a label column of
numbers is read with the class names that `datasets` keeps in the schema's metadata.
Licence and folds: the data set's own. `split` is taken from names such as `train-00000-of-00012.parquet`.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pydantic import PositiveInt

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import Names, inside, open_parquet, walk_files
from raysem.errors import DataError

NEEDS = ".parquet files with a column audio struct<bytes, path>"
MAX_BATCH_BYTES = 512 * 2**20
"""Of the rows in memory at once. A value that a dictionary holds once may stand in every row."""
MAX_VALUE_SHARE = 1000
"""Unpacked to packed size of a column: beyond it, in something this large, it is a decompression bomb."""
_SPLIT = re.compile(r"^(.+)-\d{5}-of-\d{5}\.parquet$")


class ParquetOptions(Settings):
    """Which column is what."""

    source: str = "parquet"
    """Name of the corpus: the column `source`, and the beginning of every clip_id."""
    audio_column: str = "audio"
    id_column: str | None = None
    """None: the file and the number of the row, `train-00000-of-00012/00000007`."""
    caption_column: Names = ()
    """Columns of text, or of lists of texts."""
    label_column: Names = ()
    """Columns of text, of class numbers, or of lists of either."""
    start_column: str | None = None
    duration_column: str | None = None
    fold_column: str | None = None
    split_column: str | None = None
    rows_per_read: PositiveInt = 64
    """Rows in memory at once; they hold the audio bytes."""


def read_parquet(root: str, options: ParquetOptions | None = None) -> Iterator[ClipRow]:
    """The rows of all files, in the order of their names; in bounded memory."""
    options = options or ParquetOptions()
    location = storage.absolute(root)
    if location.endswith(".parquet"):
        folder, _, name = location.rpartition("/")
        names = [name]
    else:
        folder = location
        names = [name for name in walk_files(location) if name.endswith(".parquet")]
    if not names:
        raise DataError(f"{location}: no Parquet file below it; there must be {NEEDS}")
    for name in sorted(names):
        yield from _read_file(folder, name, options)


def _read_file(folder: str, name: str, options: ParquetOptions) -> Iterator[ClipRow]:
    location = storage.join(folder, name)
    columns = _columns(options)
    split = _SPLIT.match(posixpath.basename(name))
    number = 0
    with open_parquet(location) as file:
        _check_columns(location, file.schema_arrow, columns)
        class_names = _class_names(file.schema_arrow)
        for group in range(file.num_row_groups):
            rows = _rows_at_once(file.metadata.row_group(group), columns, options.rows_per_read, location)
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns):
                for values in batch.to_pylist():
                    place = f"{location} row {number}"
                    identifier = f"{name.removesuffix('.parquet')}/{number:08d}"
                    clip = _Values(values, place, class_names)
                    yield _clip(clip, identifier, folder, split.group(1) if split else None, options)
                    number += 1


def _rows_at_once(group: Any, columns: list[str], wanted: int, location: str) -> int:
    """Rows of a row group to read at once, so that they fit memory whatever they hold.

    Goes by the sizes in the file's footer; one that lies about them is not seen through.
    """
    largest = 0
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema.split(".")[0] not in columns:
            continue
        unpacked, packed = column.total_uncompressed_size, column.total_compressed_size
        if unpacked > MAX_BATCH_BYTES and unpacked > MAX_VALUE_SHARE * max(packed, 1):
            raise DataError(
                f"{location}: column {column.path_in_schema!r} grows from {packed} to {unpacked} bytes; refused"
            )
        largest += unpacked
    return max(1, min(wanted, MAX_BATCH_BYTES // max(largest, 1)))


def _columns(options: ParquetOptions) -> list[str]:
    single = [options.id_column, options.start_column, options.duration_column, options.fold_column]
    named = [options.audio_column, *options.caption_column, *options.label_column, *single, options.split_column]
    return list(dict.fromkeys(column for column in named if column))


def _check_columns(location: str, schema: pa.Schema, columns: list[str]) -> None:
    absent = [column for column in columns if column not in schema.names]
    if absent:
        raise DataError(f"{location}: no column {', '.join(map(repr, absent))}; there are {', '.join(schema.names)}")


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of ClassLabel columns, as `datasets` writes them beside the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {
            name: feature.get("names") or feature.get("feature", {}).get("names") for name, feature in features.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError):  # no such metadata, or another writer's
        return {}
    return {column: names for column, names in found.items() if isinstance(names, list)}


def _clip(values: _Values, identifier: str, folder: str, split: str | None, options: ParquetOptions) -> ClipRow:
    content, path = values.audio(options.audio_column)
    if options.id_column:
        identifier = values.text(options.id_column)
    problem = None
    if content is not None:
        path = posixpath.basename(path.replace("\\", "/")) if path else None  # a name only; nothing opens it
        if not content:
            problem = ("empty", "no audio bytes in the row")
    elif path is not None:
        relative = inside(folder, path, values.place)
        path = storage.join(folder, relative)
        if not storage.exists(path):
            problem = ("missing", f"no file {relative!r} below {folder}")
    else:
        problem = ("missing", f"column {options.audio_column!r} holds neither bytes nor a path")
    return ClipRow(
        clip_id=f"{options.source}/{identifier}",
        source=options.source,
        place=values.place,
        path=path,
        content=content,
        start_seconds=values.number(options.start_column),
        duration_seconds=values.number(options.duration_column),
        captions=tuple(text for column in options.caption_column for text in values.texts(column)),
        labels=tuple(dict.fromkeys(text for column in options.label_column for text in values.texts(column))),
        fold=values.fold(options.fold_column),
        split=values.text(options.split_column) if options.split_column else split,
        problem=problem,  # type: ignore[arg-type]
    )


class _Values:
    """One row, with messages that name it."""

    def __init__(self, values: Mapping[str, Any], place: str, class_names: Mapping[str, list[str]]):
        self.place = place
        self._values, self._class_names = values, class_names

    def audio(self, column: str) -> tuple[bytes | None, str | None]:
        """Bytes and path of the audio, whichever there are."""
        value = self._values[column]
        if isinstance(value, dict) and {"bytes", "path"} & set(value):
            return value.get("bytes"), value.get("path")
        if isinstance(value, bytes) or value is None:
            return value, None
        if isinstance(value, str):
            return None, value
        kind = type(value).__name__
        raise DataError(f"{self.place}: column {column!r} is a {kind}, expected struct<bytes, path>, bytes or a path")

    def text(self, column: str) -> str:
        value = self._values[column]
        if value is None or not str(value).strip():
            raise DataError(f"{self.place}: column {column!r} is empty")
        return str(value).strip()

    def texts(self, column: str) -> list[str]:
        value = self._values[column]
        parts = value if isinstance(value, list) else [value]
        texts = [self._class_name(column, part) if isinstance(part, int) else str(part or "").strip() for part in parts]
        return [text for text in texts if text]

    def number(self, column: str | None) -> float | None:
        if column is None or self._values[column] is None:
            return None
        try:
            number = float(self._values[column])
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{self.place}: {column} is {self._values[column]!r}, expected a number")
        return number

    def fold(self, column: str | None) -> int | None:
        number = self.number(column)
        if number is not None and number != int(number):
            raise DataError(f"{self.place}: {column} is {number}, expected a whole number")
        return None if number is None else int(number)

    def _class_name(self, column: str, number: int) -> str:
        names = self._class_names.get(column)
        if names is None:
            return str(number)
        if not 0 <= number < len(names):
            raise DataError(f"{self.place}: {column} is {number}, but there are {len(names)} class names")
        return names[number]
