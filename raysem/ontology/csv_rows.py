"""The csv files beside an ontology: lists of classes, tables of descriptions."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from raysem import storage
from raysem.errors import DataError


def csv_rows(location: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place for messages, values of `columns` without spaces around them) of each line.

    Raises:
        DataError: no such file, not UTF-8, a column is not there, a line has more values than there are columns.
    """
    try:
        text = storage.read_bytes(location).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{location}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{location}: not UTF-8 ({error})") from error
    rows = csv.DictReader(text.splitlines(keepends=True))
    absent = [column for column in columns if column not in (rows.fieldnames or ())]
    if absent:
        raise DataError(f"{location}: no column {absent[0]!r}; there are {list(rows.fieldnames or ())}")
    for row in rows:
        if None in row:
            raise DataError(f"{location}: line {rows.line_num}: too many values; one with a comma in it needs quotes")
        yield f"{location}: line {rows.line_num}", {column: (row[column] or "").strip() for column in columns}
