"""Rows of Parquet tables by `clip_id`: found without a look at the other columns, then read a few at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raysem import storage
from raysem.errors import DataError

_ID = "clip_id"
_ROWS_PER_READ = 256
"""Rows in memory at once; they may hold audio bytes."""


@dataclass(frozen=True)
class Place:
    """One row of a file."""

    file: str
    row: int


def table_files(location: str) -> list[str]:
    """The Parquet files of a table: the file itself, or those of a folder, sorted by name.

    Raises:
        DataError: there is none.
    """
    location = storage.absolute(location)
    files = [location] if location.endswith(".parquet") else storage.list_files(location, ".parquet")
    if not files:
        raise DataError(f"{location}: no Parquet file there")
    return files


def find_rows(files: Sequence[str], wanted: Collection[str] | None = None) -> dict[str, Place]:
    """Where each clip stands, of the `wanted` ones or of all.

    Raises:
        DataError: a file without the column, an empty id, or an id that stands in two rows.
    """
    places: dict[str, Place] = {}
    for file in files:
        with storage.open_parquet(file, [_ID]) as parquet:
            row = 0
            for batch in parquet.iter_batches(columns=[_ID]):
                for clip_id in batch.column(0).to_pylist():
                    place = Place(file, row)
                    if not isinstance(clip_id, str) or not clip_id:
                        raise DataError(f"{file} row {row}: clip_id is {clip_id!r}, expected text")
                    if clip_id in places:
                        first = places[clip_id]
                        raise DataError(
                            f"{file} row {row}: clip {clip_id!r} also stands in {first.file} row {first.row}"
                        )
                    if wanted is None or clip_id in wanted:
                        places[clip_id] = place
                    row += 1
    return places


def read_rows(
    places: Mapping[str, Place], columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, pa.Table]]:
    """(clip_id, a table of its one row with the file's metadata), file by file.

    It has `columns` and those of the `optional` ones that the file has. Only the row groups that hold a wanted row are
    read, a batch at a time.

    Raises:
        DataError: a file lacks one of `columns`.
    """
    wanted: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for clip_id, place in places.items():
        wanted[place.file][place.row] = clip_id
    for file, rows in wanted.items():
        with storage.open_parquet(file, columns) as parquet:
            present = [*columns, *(name for name in optional if name in parquet.schema_arrow.names)]
            start = 0
            for group in range(parquet.num_row_groups):
                stop = start + parquet.metadata.row_group(group).num_rows
                here = sorted(row for row in rows if start <= row < stop)
                if here:
                    batches = parquet.iter_batches(batch_size=_ROWS_PER_READ, row_groups=[group], columns=present)
                    for row, table in _picked(batches, start, here):
                        yield rows[row], table.replace_schema_metadata(parquet.schema_arrow.metadata)
                start = stop


def _picked(batches: Iterable[pa.RecordBatch], start: int, wanted: Sequence[int]) -> Iterator[tuple[int, pa.Table]]:
    """(number of the row, the row) of the wanted rows, the first of all being number `start`."""
    for batch in batches:
        for row in wanted:
            if start <= row < start + len(batch):
                yield row, pa.Table.from_batches([batch.slice(row - start, 1)])
        start += len(batch)
