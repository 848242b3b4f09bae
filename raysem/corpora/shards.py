"""The clips table as input shards: sorted by `clip_id`, cut at a fixed size, with a manifest of content hashes.

`<output>/shard_00000.parquet`, ... and `manifest.json`, which is written last: a folder with a manifest is whole.
Every later stage works shard by shard and names its outputs after them.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysem import storage
from raysem.errors import DataError
from raysem.tables import CLIPS, conform

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One file of a sharded clips table."""

    file: str
    rows: int
    sha256: str
    first_clip_id: str
    last_clip_id: str


@dataclass(frozen=True)
class ShardManifest:
    """The shards of a clips table, in order of `clip_id`."""

    location: str
    rows: int
    shards: tuple[Shard, ...]

    @property
    def files(self) -> list[str]:
        """The locations of the shards."""
        return [storage.join(self.location, shard.file) for shard in self.shards]


def shard_name(index: int) -> str:
    """`shard_00000.parquet`; sorted by name is sorted by number."""
    return f"shard_{index:05d}.parquet"


def clips_folder(location: str) -> str:
    """Where the shards are: `location` itself, or its folder `clips` (what `build_corpus` and `pack` write)."""
    below = storage.join(location, "clips")
    return below if storage.exists(storage.join(below, MANIFEST)) else location


def read_manifest(location: str) -> ShardManifest:
    """The manifest of a folder of shards; DataError when there is none (the build did not finish)."""
    folder = clips_folder(storage.absolute(location))
    try:
        content = storage.read_json(storage.join(folder, MANIFEST))
        shards = tuple(Shard(**shard) for shard in content["shards"])
        return ShardManifest(folder, int(content["rows"]), shards)
    except FileNotFoundError:
        raise DataError(f"{folder}: no {MANIFEST}; not a clips table, or its build did not finish") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{storage.join(folder, MANIFEST)}: not a manifest of shards ({error})") from error


def write_manifest(folder: str, shards: Iterable[Shard]) -> ShardManifest:
    """Write the manifest, after all of its shards."""
    listed = tuple(shards)
    manifest = ShardManifest(folder, sum(shard.rows for shard in listed), listed)
    content: dict[str, Any] = {"rows": manifest.rows, "shards": [asdict(shard) for shard in listed]}
    storage.write_json(storage.join(folder, MANIFEST), content)
    return manifest


def write_shard(folder: str, index: int, table: pa.Table) -> Shard:
    """Write one shard of rows already sorted by `clip_id`; the same bytes for the same rows."""
    # Parquet's pages follow the chunks, and its schema the name of a list's element, which reading back changes.
    table = table.combine_chunks().cast(CLIPS)
    location = storage.join(folder, shard_name(index))
    storage.write_table(location, table, row_group_rows=_row_group_rows(table))
    ids = table.column("clip_id")
    return Shard(
        shard_name(index), len(table), storage.digest_of(location), ids[0].as_py(), ids[len(table) - 1].as_py()
    )


def write_shards(
    tables: Iterable[pa.Table],
    output: str,
    *,
    rows_per_shard: int = 2000,
    max_shard_mib: float = 512,
    buffer_mib: float = 256,
) -> ShardManifest:
    """Sort the rows of `tables` by `clip_id` and write them as shards below `output`, with a manifest.

    Input larger than `buffer_mib` is sorted in pieces on the local disk (TMPDIR), so that memory holds one buffer, one
    shard, and the ids. The shards do not depend on the order of the input, nor on the buffer.

    Args:
        tables: tables that conform to CLIPS, of any size.
        rows_per_shard: rows of every shard but the last one.
        max_shard_mib: a shard with audio bytes inside is cut earlier at this size.

    Raises:
        DataError: a `clip_id` stands twice, or a table is no clips table.
    """
    if rows_per_shard < 1:
        raise DataError(f"rows_per_shard is {rows_per_shard}, expected at least 1")
    folder = storage.absolute(output)
    storage.delete(storage.join(folder, MANIFEST))
    shards: list[Shard] = []
    with tempfile.TemporaryDirectory(prefix="raysem-sort-") as scratch:
        for table in _sorted_pieces(tables, Path(scratch), rows_per_shard, max_shard_mib, buffer_mib):
            _check_unique(table, shards[-1].last_clip_id if shards else None, folder)
            shards.append(write_shard(folder, len(shards), table))
            log.info("wrote %s: %d clips", storage.join(folder, shards[-1].file), shards[-1].rows)
    written = {shard.file for shard in shards}
    for location in storage.list_files(folder, ".parquet"):
        name = location.rsplit("/", 1)[-1]
        if name.startswith("shard_") and name not in written:  # left by an earlier, longer table
            storage.delete(location)
    return write_manifest(folder, shards)


def audio_sizes(table: pa.Table) -> np.ndarray:
    """Bytes of audio inside each row (N,), 0 where there is only a path."""
    content = pc.struct_field(table.column("audio"), "bytes")
    return pc.fill_null(pc.binary_length(content), 0).to_numpy().astype(np.int64)


def _row_group_rows(table: pa.Table) -> int:
    """Row groups of about 16 MiB of audio, so that a reader of single rows does not load the shard."""
    mean_bytes = max(1, int(audio_sizes(table).sum()) // max(1, len(table)))
    return int(np.clip(16 * 2**20 // mean_bytes, 1, 65_536))


def _check_unique(table: pa.Table, previous: str | None, folder: str) -> None:
    ids = table.column("clip_id").to_pylist()
    for before, after in zip([previous, *ids], ids, strict=False):
        if before == after:
            raise DataError(f"{folder}: clip_id {after!r} stands twice in the clips table")
    if None in ids:
        raise DataError(f"{folder}: a clip_id is null")


def _cuts(sizes: np.ndarray, rows_per_shard: int, max_bytes: float) -> list[int]:
    """The ends of the shards: at `rows_per_shard` rows, or before the row that would pass `max_bytes`."""
    ends, start, total = [], 0, 0
    for row, size in enumerate(sizes.tolist()):
        if row > start and (row - start == rows_per_shard or total + size > max_bytes):
            ends.append(row)
            start, total = row, 0
        total += size
    return [*ends, len(sizes)] if len(sizes) else []


def _sort(table: pa.Table) -> pa.Table:
    ids = table.column("clip_id")
    order = pc.sort_indices(ids)
    if np.array_equal(order.to_numpy(), np.arange(len(table))):
        return table
    return table.take(order)


def _sorted_pieces(
    tables: Iterable[pa.Table], scratch: Path, rows_per_shard: int, max_shard_mib: float, buffer_mib: float
) -> Iterator[pa.Table]:
    """The rows of all shards, sorted: one table per shard."""
    runs: list[_Run] = []
    buffer: list[pa.Table] = []
    num_bytes = 0
    for table in tables:
        buffer.append(conform(table, CLIPS, "clips"))
        num_bytes += buffer[-1].nbytes
        if num_bytes > buffer_mib * 2**20:
            runs.append(_Run.spill(_sort(pa.concat_tables(buffer)), scratch / f"run_{len(runs):05d}.parquet"))
            buffer, num_bytes = [], 0
    if not runs:
        if buffer:
            whole = _sort(pa.concat_tables(buffer))
            start = 0
            for end in _cuts(audio_sizes(whole), rows_per_shard, max_shard_mib * 2**20):
                yield whole.slice(start, end - start)
                start = end
        return
    if buffer:
        runs.append(_Run.spill(_sort(pa.concat_tables(buffer)), scratch / f"run_{len(runs):05d}.parquet"))
        buffer = []
    ids = pa.chunked_array([chunk for run in runs for chunk in run.ids.chunks], pa.string())
    run_of_row = np.repeat(np.arange(len(runs)), [len(run.ids) for run in runs])
    order = pc.sort_indices(ids).to_numpy()
    sizes = np.concatenate([run.sizes for run in runs])[order]
    run_of_row = run_of_row[order]
    start = 0
    for end in _cuts(sizes, rows_per_shard, max_shard_mib * 2**20):
        counts = np.bincount(run_of_row[start:end], minlength=len(runs))
        yield _sort(pa.concat_tables([run.take(int(count)) for run, count in zip(runs, counts, strict=True) if count]))
        start = end


class _Run:
    """Sorted rows on the local disk, taken from the front."""

    def __init__(self, path: Path, ids: pa.ChunkedArray, sizes: np.ndarray):
        self.ids, self.sizes = ids, sizes
        self._path = path
        self._next_group = 0
        self._waiting: pa.Table | None = None

    @classmethod
    def spill(cls, table: pa.Table, path: Path) -> _Run:
        rows = int(np.clip(2**20 // max(1, table.nbytes // len(table)), 1, 4096))  # 1 MiB groups: many runs stay small
        pq.write_table(table, path, row_group_size=rows, compression="none")
        return cls(path, table.column("clip_id"), audio_sizes(table))

    def take(self, count: int) -> pa.Table:
        parts = [self._waiting] if self._waiting is not None else []
        have = sum(len(part) for part in parts)
        if have < count:
            with pq.ParquetFile(self._path) as file:
                while have < count:
                    parts.append(file.read_row_group(self._next_group))
                    self._next_group += 1
                    have += len(parts[-1])
        table = pa.concat_tables(parts)
        self._waiting = table.slice(count) if have > count else None
        return table.slice(0, count)
