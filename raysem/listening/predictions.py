"""A model's tags for clips, from Parquet tables.

Columns: `clip_id`, and either `tags` list<struct<name, score>>, or `scores` (or `embedding`) list<float> of one width
with the names of the classes as a JSON list under the key `classes` of the schema's metadata.
"""

# Shapes: K classes.

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysem import storage
from raysem.errors import DataError
from raysem.listening.rows import Place, find_rows, read_rows, table_files

_VALUE_COLUMNS = ("tags", "scores", "embedding")
"""The first of these that a file has is read."""
_CLASSES = b"classes"


@dataclass(frozen=True)
class Tag:
    """A class that a model named, and how sure it was."""

    name: str
    score: float


@dataclass(frozen=True)
class Predictions:
    """Which clips a model has tagged. Their scores are read for the clips that are asked for, and not before."""

    location: str
    places: Mapping[str, Place]

    def top_tags(self, clip_ids: list[str], num_tags: int) -> dict[str, tuple[Tag, ...]]:
        """The tags of highest score of each clip, best first, fewer where a clip has fewer; ties in the table's order.

        Raises:
            DataError: a column, the names of the classes or a score is not what it should be.
        """
        places = {clip_id: self.places[clip_id] for clip_id in clip_ids}
        found = {}
        for clip_id, row in read_rows(places, ["clip_id"], _VALUE_COLUMNS):
            tags = _tags_of(row, f"{places[clip_id].file} clip {clip_id!r}")
            found[clip_id] = tuple(sorted(tags, key=lambda tag: -tag.score)[:num_tags])
        return found


def read_predictions(location: str) -> Predictions:
    """The predictions at `location`, a Parquet file or a folder of them; only the column `clip_id` is read here."""
    location = storage.absolute(location)
    return Predictions(location, find_rows(table_files(location)))


def _tags_of(row: pa.Table, where: str) -> list[Tag]:
    for column in _VALUE_COLUMNS:
        if column in row.column_names:
            values = row.column(column)[0].as_py()
            return _named_tags(values, where) if column == "tags" else _scored_tags(values, column, row.schema, where)
    raise DataError(f"{where}: none of the columns {', '.join(map(repr, _VALUE_COLUMNS))}")


def _named_tags(values: Any, where: str) -> list[Tag]:
    if not isinstance(values, list) or not all(isinstance(v, dict) and {"name", "score"} <= set(v) for v in values):
        raise DataError(f"{where}: column 'tags' is no list<struct<name: string, score: float>>")
    return [_tag(value["name"], value["score"], where) for value in values]


def _scored_tags(values: Any, column: str, schema: pa.Schema, where: str) -> list[Tag]:
    names_K = _class_names(schema.metadata, where)
    if not isinstance(values, list) or len(values) != len(names_K):
        found = f"{len(values)} numbers" if isinstance(values, list) else repr(values)
        raise DataError(f"{where}: column {column!r} holds {found} for {len(names_K)} classes")
    return [_tag(name, score, where) for name, score in zip(names_K, values, strict=True)]


def _class_names(metadata: Mapping[bytes, bytes] | None, where: str) -> list[str]:
    try:
        names = json.loads((metadata or {})[_CLASSES])
    except (KeyError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{where}: the schema's metadata has no JSON list of names under the key 'classes'")
    return names


def _tag(name: Any, score: Any, where: str) -> Tag:
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}: a tag's name is {name!r}, expected text")
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(f"{where}: the score of {name!r} is {score!r}, expected a finite number")
    return Tag(name.strip(), float(score))
