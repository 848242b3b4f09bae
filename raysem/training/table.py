"""Clips with their captions or labels for training, from Parquet: small tables in memory, large ones by row group."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysem import storage
from raysem.errors import DataError
from raysem.storage import Location
from raysem.training.cache import MIB, LeastRecentlyUsed
from raysem.training.draws import draw_index

log = logging.getLogger(__name__)

LARGE_ROW_GROUP_BYTES = 512 * MIB
_COLUMNS = ("clip_id", "audio", "start_seconds", "duration_seconds")

TextColumn = Literal["captions", "labels"]
"""What a clip is trained with. A clip without captions cannot be; one without labels has none of the classes."""


@dataclass(frozen=True)
class TrainingClip:
    """One clip: where its audio is, and its captions or its labels."""

    clip_id: str
    audio_bytes: bytes | None
    audio_path: str | None
    start_seconds: float | None
    duration_seconds: float | None
    texts: tuple[str, ...]

    def caption(self, *, seed: int, epoch: int) -> str:
        """One of the captions, by (seed, epoch, clip_id)."""
        return self.texts[draw_index(len(self.texts), "caption", seed, epoch, self.clip_id)]


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file."""

    file: Location
    row_group: int
    num_rows: int
    num_bytes: int

    def read(self, texts: TextColumn) -> pa.Table:
        """Its rows as one chunk, in the columns of a block of a `ClipTable`."""
        with storage.open_parquet(self.file) as parquet:
            table = parquet.read_row_group(self.row_group, columns=_present_columns(self.file, parquet, texts))
        return _checked(table, self.file, texts).combine_chunks()


class ClipTable(ABC):
    """Rows by number, in blocks that are read as a whole: row groups, or all rows at once."""

    def __init__(self, name: str, texts: TextColumn, block_rows: Sequence[int]):
        self.name, self.texts, self.block_rows = name, texts, tuple(block_rows)
        self._starts = np.concatenate([[0], np.cumsum(self.block_rows)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @abstractmethod
    def block(self, index: int) -> pa.Table:
        """The rows of a block: clip_id, audio_bytes, audio_path, start_seconds, duration_seconds, texts."""

    def block_index(self, row: int) -> int:
        """The number of the block that `row` lies in."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def block_of(self, row: int) -> range:
        """The rows that are at hand when `row` is."""
        index = self.block_index(row)
        return range(int(self._starts[index]), int(self._starts[index + 1]))

    def row(self, row: int) -> TrainingClip:
        """One row."""
        index = self.block_index(row)
        return _clip(self.block(index), row - int(self._starts[index]))


class TrainingTable(ClipTable):
    """The rows of Parquet files or folders of them, in the layout of CLIPS or IMPROVEMENT_SET.

    A table of at most `memory_mib` (uncompressed) is held in memory, and its rows without a caption are dropped with a
    warning. A larger one is read by row group, of which at most `memory_mib` are held; there a row without a caption is
    an unusable clip. Row groups of some 10 MiB make the best windows to shuffle in.

    Args:
        texts: the column that the clips are trained with.
    """

    def __init__(
        self,
        locations: Sequence[Location],
        *,
        texts: TextColumn = "captions",
        memory_mib: int = 512,
        name: str = "training source",
    ):
        self.memory_bytes = memory_mib * MIB
        self.row_groups = tuple(group for location in locations for group in _row_groups(location))
        num_bytes = sum(group.num_bytes for group in self.row_groups)
        largest = max((group.num_bytes for group in self.row_groups), default=0)
        self._table: pa.Table | None = None
        self.window_blocks: int | None = None
        if num_bytes <= self.memory_bytes:
            self._table = self._read_whole(name, texts)
            super().__init__(name, texts, [len(self._table)])
        else:
            super().__init__(name, texts, [group.num_rows for group in self.row_groups])
            # Two windows are in use where one ends and the next begins.
            self.window_blocks = max(1, int(self.memory_bytes / 2 // max(1, num_bytes / len(self.row_groups))))
            if largest > LARGE_ROW_GROUP_BYTES:
                log.warning(
                    "%s: a row group has %d MiB; write smaller ones, for less memory and a better shuffle",
                    name,
                    largest // MIB,
                )
        if not sum(self.block_rows):
            what = "clip with a caption" if texts == "captions" else "clip"
            raise DataError(f"{name} {', '.join(locations)}: no {what}")
        self._read: LeastRecentlyUsed[int, pa.Table] = LeastRecentlyUsed(self.memory_bytes, keep_larger=True)

    @property
    def in_memory(self) -> bool:
        return self._table is not None

    @property
    def described(self) -> str:
        """Name and size, and how it is held, for the log."""
        held = "in memory" if self.in_memory else f"read by {len(self.block_rows)} row groups"
        return f"{self.name}: {len(self)} clips, {held}"

    def block(self, index: int) -> pa.Table:
        """The table in memory, or a row group."""
        if self._table is not None:
            return self._table
        return self._read.get(index, lambda: self.row_groups[index].read(self.texts), lambda table: table.nbytes)

    def all_texts(self) -> list[tuple[str, ...]]:
        """The texts of every row, in order; of a table that is read by row group only that column is read."""
        if self._table is not None:
            return _text_tuples(self._table.column("texts"))
        found: list[tuple[str, ...]] = []
        for file in dict.fromkeys(group.file for group in self.row_groups):
            with storage.open_parquet(file) as parquet:
                found += _text_tuples(_as_strings(parquet.read(columns=[self.texts]).column(self.texts)))
        return found

    def _read_whole(self, name: str, texts: TextColumn) -> pa.Table:
        parts: list[pa.Table] = []
        for file in dict.fromkeys(group.file for group in self.row_groups):
            with storage.open_parquet(file) as parquet:
                part = parquet.read(columns=_present_columns(file, parquet, texts))
            parts.append(_checked(part, file, texts))
        if not parts:
            raise DataError(f"{name}: no Parquet file")
        table = pa.concat_tables(parts)
        if texts == "labels":
            return table.combine_chunks()
        described = pc.fill_null(pc.greater(pc.list_value_length(table.column("texts")), 0), False)
        kept = table.filter(described)
        if len(kept) < len(table):
            log.warning("%s: %d of %d clips have no caption", name, len(table) - len(kept), len(table))
        return kept.combine_chunks()


def _row_groups(location: Location) -> list[RowGroup]:
    location = storage.absolute(location)
    files = [location] if location.endswith(".parquet") else storage.list_files(location, ".parquet")
    if not files:
        raise DataError(f"{location}: no Parquet file there")
    groups = []
    for file in files:
        with storage.open_parquet(file) as parquet:
            metadata = parquet.metadata
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            if group.num_rows:
                groups.append(RowGroup(file, index, group.num_rows, group.total_byte_size))
    return groups


def _present_columns(file: Location, parquet: pq.ParquetFile, texts: TextColumn) -> list[str]:
    names = parquet.schema_arrow.names
    for needed in ("clip_id", "audio", texts):
        if needed not in names:
            raise DataError(f"{file}: no column {needed!r}, which training needs; there are {names}")
    return [name for name in (*_COLUMNS, texts) if name in names]


def _checked(table: pa.Table, file: Location, texts: TextColumn) -> pa.Table:
    """The five columns as flat ones of one type each, whichever layout the file has."""
    try:
        columns = {
            "clip_id": table.column("clip_id").cast(pa.string()),
            # large_binary: a table in memory is one chunk, and 2 GiB of clips are not many
            "audio_bytes": pc.struct_field(table.column("audio"), "bytes").cast(pa.large_binary()),
            "audio_path": pc.struct_field(table.column("audio"), "path").cast(pa.string()),
            "texts": _as_strings(table.column(texts)),
        }
        for name in ("start_seconds", "duration_seconds"):
            column = table.column(name) if name in table.column_names else pa.nulls(len(table))
            columns[name] = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        found = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise DataError(f"{file}: expected clips with audio and {texts}, found {found} ({error})") from error
    return pa.table(columns)


def _as_strings(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """list<string> from itself or from list<struct<text, ...>>."""
    kind = texts.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise pa.ArrowInvalid(f"texts are {kind}, expected a list of strings or of structs with a text")
    if pa.types.is_struct(kind.value_type):
        lists = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        chunks = [
            lists.from_arrays(chunk.offsets, pc.struct_field(chunk.values, "text").cast(pa.string()))
            for chunk in texts.chunks
        ]
        texts = pa.chunked_array(chunks, type=None if chunks else pa.list_(pa.string()))
    return texts.cast(pa.list_(pa.string()))


def _text_tuples(texts: pa.ChunkedArray) -> list[tuple[str, ...]]:
    return [tuple(text for text in row or () if text) for row in texts.to_pylist()]


def _clip(table: pa.Table, index: int) -> TrainingClip:
    return TrainingClip(
        table.column("clip_id")[index].as_py(),
        table.column("audio_bytes")[index].as_py(),
        table.column("audio_path")[index].as_py(),
        table.column("start_seconds")[index].as_py(),
        table.column("duration_seconds")[index].as_py(),
        tuple(text for text in table.column("texts")[index].as_py() or () if text),
    )
