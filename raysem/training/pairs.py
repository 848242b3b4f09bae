"""Clips with their captions for training, read from Parquet: small tables in memory, large ones by row group."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysem import storage
from raysem.errors import DataError
from raysem.storage import Location
from raysem.training.draws import draw_index

log = logging.getLogger(__name__)

MIB = 1 << 20
LARGE_ROW_GROUP_BYTES = 512 * MIB
_COLUMNS = ("clip_id", "audio", "start_seconds", "duration_seconds", "captions")


@dataclass(frozen=True)
class PairRow:
    """One clip: where its audio is, and the texts that describe it (none: it cannot be trained on)."""

    clip_id: str
    audio_bytes: bytes | None
    audio_path: str | None
    start_seconds: float | None
    duration_seconds: float | None
    captions: tuple[str, ...]

    def caption(self, *, seed: int, epoch: int) -> str:
        """One of the captions, by (seed, epoch, clip_id)."""
        return self.captions[draw_index(len(self.captions), "caption", seed, epoch, self.clip_id)]


@dataclass(frozen=True)
class _Block:
    """One row group of one file."""

    file: Location
    row_group: int
    num_rows: int
    num_bytes: int


class PairTable:
    """The rows of Parquet files or folders of them, in the layout of CLIPS or IMPROVEMENT_SET.

    A table of at most `memory_mib` (uncompressed) is held in memory, and its rows without a caption are dropped with a
    warning. A larger one is read by row group, of which at most `memory_mib` are held; there a row without a caption is
    an unusable clip. Row groups of some 10 MiB make the best windows to shuffle in.
    """

    def __init__(self, locations: Sequence[Location], *, memory_mib: int = 512, name: str = "training source"):
        self.name = name
        self._blocks = [block for location in locations for block in _blocks(location)]
        num_bytes = sum(block.num_bytes for block in self._blocks)
        largest = max((block.num_bytes for block in self._blocks), default=0)
        self._table: pa.Table | None = None
        if num_bytes <= memory_mib * MIB:
            self._table = self._read_whole()
            self.block_rows: tuple[int, ...] = (len(self._table),)
            self.window_blocks: int | None = None
        else:
            self.block_rows = tuple(block.num_rows for block in self._blocks)
            # Two windows are in use where one ends and the next begins.
            self.window_blocks = max(1, int(memory_mib * MIB / 2 // max(1, num_bytes / len(self._blocks))))
            if largest > LARGE_ROW_GROUP_BYTES:
                log.warning(
                    "%s: a row group has %d MiB; write smaller ones, for less memory and a better shuffle",
                    name,
                    largest // MIB,
                )
        if not sum(self.block_rows):
            raise DataError(f"{name} {', '.join(locations)}: no clip with a caption")
        self._starts = np.concatenate([[0], np.cumsum(self.block_rows)])
        self._row_groups: LeastRecentlyUsed[int, pa.Table] = LeastRecentlyUsed(memory_mib * MIB, keep_larger=True)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def in_memory(self) -> bool:
        return self._table is not None

    def block_of(self, row: int) -> range:
        """The rows that are at hand when `row` is."""
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        return range(int(self._starts[block]), int(self._starts[block + 1]))

    def row(self, row: int) -> PairRow:
        """One row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        if self._table is not None:
            return _pair_row(self._table, row)
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        table = self._row_groups.get(block, lambda: self._read_block(block), lambda table: table.nbytes)
        return _pair_row(table, row - int(self._starts[block]))

    def _read_whole(self) -> pa.Table:
        parts: list[pa.Table] = []
        for file in dict.fromkeys(block.file for block in self._blocks):
            with storage.open_parquet(file) as parquet:
                part = parquet.read(columns=_present_columns(file, parquet))
            parts.append(_checked(part, file))
        if not parts:
            raise DataError(f"{self.name}: no Parquet file")
        table = pa.concat_tables(parts)
        described = pc.fill_null(pc.greater(pc.list_value_length(table.column("captions")), 0), False)
        kept = table.filter(described)
        if len(kept) < len(table):
            log.warning("%s: %d of %d clips have no caption", self.name, len(table) - len(kept), len(table))
        return kept.combine_chunks()

    def _read_block(self, index: int) -> pa.Table:
        block = self._blocks[index]
        with storage.open_parquet(block.file) as parquet:
            table = parquet.read_row_group(block.row_group, columns=_present_columns(block.file, parquet))
        return _checked(table, block.file).combine_chunks()


def _blocks(location: Location) -> list[_Block]:
    location = storage.absolute(location)
    files = [location] if location.endswith(".parquet") else storage.list_files(location, ".parquet")
    if not files:
        raise DataError(f"{location}: no Parquet file there")
    blocks = []
    for file in files:
        with storage.open_parquet(file) as parquet:
            metadata = parquet.metadata
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            if group.num_rows:
                blocks.append(_Block(file, index, group.num_rows, group.total_byte_size))
    return blocks


def _present_columns(file: Location, parquet: pq.ParquetFile) -> list[str]:
    names = parquet.schema_arrow.names
    for needed in ("clip_id", "audio", "captions"):
        if needed not in names:
            raise DataError(f"{file}: no column {needed!r}, which training needs; there are {names}")
    return [name for name in _COLUMNS if name in names]


def _checked(table: pa.Table, file: Location) -> pa.Table:
    """The five columns as flat ones of one type each, whichever layout the file has."""
    try:
        columns = {
            "clip_id": table.column("clip_id").cast(pa.string()),
            # large_binary: a table in memory is one chunk, and 2 GiB of clips are not many
            "audio_bytes": pc.struct_field(table.column("audio"), "bytes").cast(pa.large_binary()),
            "audio_path": pc.struct_field(table.column("audio"), "path").cast(pa.string()),
            "captions": _caption_texts(table.column("captions")),
        }
        for name in ("start_seconds", "duration_seconds"):
            column = table.column(name) if name in table.column_names else pa.nulls(len(table))
            columns[name] = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        found = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise DataError(f"{file}: expected clips with audio and captions, found {found} ({error})") from error
    return pa.table(columns)


def _caption_texts(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    """list<string> from itself or from list<struct<text, ...>>."""
    kind = captions.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise pa.ArrowInvalid(f"captions are {kind}, expected a list of strings or of structs with a text")
    if pa.types.is_struct(kind.value_type):
        lists = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        chunks = [
            lists.from_arrays(chunk.offsets, pc.struct_field(chunk.values, "text").cast(pa.string()))
            for chunk in captions.chunks
        ]
        captions = pa.chunked_array(chunks, type=None if chunks else pa.list_(pa.string()))
    return captions.cast(pa.list_(pa.string()))


def _pair_row(table: pa.Table, index: int) -> PairRow:
    return PairRow(
        table.column("clip_id")[index].as_py(),
        table.column("audio_bytes")[index].as_py(),
        table.column("audio_path")[index].as_py(),
        table.column("start_seconds")[index].as_py(),
        table.column("duration_seconds")[index].as_py(),
        tuple(text for text in table.column("captions")[index].as_py() or () if text),
    )


KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class LeastRecentlyUsed(Generic[KeyT, ValueT]):
    """A cache bounded in bytes, for several threads: a value is made once, however many ask for it at a time."""

    def __init__(self, max_bytes: int, *, keep_larger: bool = False):
        self._max_bytes, self._num_bytes, self._keep_larger = max_bytes, 0, keep_larger
        self._values: OrderedDict[KeyT, tuple[ValueT, int]] = OrderedDict()
        self._making: dict[KeyT, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def get(self, key: KeyT, make: Callable[[], ValueT], size_bytes: Callable[[ValueT], int]) -> ValueT:
        """The value of `key`, made when it is not there.

        A value larger than the bound is returned but not kept; with `keep_larger` it is kept alone, until the next.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key][0]
            try:
                value = make()
            finally:
                with self._lock:
                    self._making.pop(key, None)
            with self._lock:
                size = size_bytes(value)
                if (size <= self._max_bytes or self._keep_larger) and key not in self._values:
                    self._values[key] = (value, size)
                    self._num_bytes += size
                    while self._num_bytes > self._max_bytes and len(self._values) > self._keep_larger:
                        self._num_bytes -= self._values.popitem(last=False)[1][1]
            return value
