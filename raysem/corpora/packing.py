"""Packing: the clips table with the audio bytes inside, in Parquet shards of an even size.

The form for millions of clips: one object holds thousands, and a stage reads it in one sequential stream. Below the
output: `clips/shard_*.parquet` with `clips/manifest.json`, sorted by `clip_id` like the input; `rejects.parquet`;
`records/shard_*.json`, one written after each shard, which is what a rerun goes by; hidden labels, where the input has
such (built.py).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raysem import storage
from raysem.audio.sources import read_clip_file
from raysem.config import differences
from raysem.corpora.built import read_hidden_labels, write_hidden_labels
from raysem.corpora.rows import rejects_table
from raysem.corpora.shards import Shard, ShardManifest, read_manifest, shard_name, write_manifest, write_shard
from raysem.errors import ClipError, DataError
from raysem.tables import CLIPS

log = logging.getLogger(__name__)

STAGE = "packing"
PLAN = "packing.json"
CLIPS_PER_READ = 64
"""Files read at once and clips held besides the shard that fills."""


@dataclass(frozen=True)
class _Record:
    """What one finished shard holds: the rows [first_row, end_row) of the sorted input, less the rejects."""

    first_row: int
    end_row: int
    shard: Shard | None
    rejects: list[tuple[str, str, str]]
    audio_bytes: int


@dataclass(frozen=True)
class PackLimits:
    """The sizes that decide what a packing holds."""

    target_mib_per_shard: float
    max_clip_mib: float
    max_failed_share: float

    def __post_init__(self) -> None:
        if self.target_mib_per_shard <= 0 or self.max_clip_mib <= 0 or not 0 <= self.max_failed_share <= 1:
            raise DataError(f"sizes must be above 0 and max_failed_share from 0 to 1, got {self}")

    @property
    def target_bytes(self) -> int:
        """Audio bytes at which a shard ends."""
        return int(self.target_mib_per_shard * 2**20)

    @property
    def max_clip_bytes(self) -> int:
        """Audio bytes of the largest clip that is packed."""
        return int(self.max_clip_mib * 2**20)


def pack(
    clips_location: str,
    output: str,
    *,
    target_mib_per_shard: float = 256,
    max_clip_mib: float = 256,
    max_failed_share: float = 0.5,
    reader_threads: int = 8,
) -> dict[str, Any]:
    """Read every clip's file and write the clips table with the bytes inside, in shards of about the target size.

    Run again, it goes on after the last whole shard, and gives the same shards as one run. A clip whose file is
    missing, empty or above `max_clip_mib` becomes a row of `rejects.parquet`; a disk or a store that does not give a
    file stops the run with a StorageError. Nothing is decoded: a file that is no audio is found when it is embedded.
    Segments of one long file each get the whole file; cut first.

    Args:
        clips_location: what `build_corpus` or `write_shards` wrote.
        output: a folder of its own. One that holds another packing is refused.
        max_failed_share: above this share of rejects, counted after each shard, the run stops with examples.

    Returns:
        input, output, clips, shards, shards_skipped (were there already), rejects by outcome, audio_mib, seconds.
    """
    limits = PackLimits(target_mib_per_shard, max_clip_mib, max_failed_share)
    manifest = read_manifest(clips_location)
    target = storage.absolute(output)
    if manifest.location in (target, storage.join(target, "clips")):
        raise DataError(f"{target}: is the input; pack into another folder")
    started = time.monotonic()
    _claim(target, {"input": [shard.sha256 for shard in manifest.shards], **asdict(limits)})
    records = _finished(target)
    skipped = sum(record.shard is not None for record in records)
    if (records[-1].end_row if records else 0) < manifest.rows:
        records += list(_pack_rest(manifest, target, records, limits, reader_threads))
    rejects = [reject for record in records for reject in record.rejects]
    storage.write_table(storage.join(target, "rejects.parquet"), rejects_table(rejects, STAGE))
    packed = write_manifest(storage.join(target, "clips"), [record.shard for record in records if record.shard])
    write_hidden_labels(target, read_hidden_labels(clips_location))
    if packed.rows + len(rejects) != manifest.rows:
        raise DataError(
            f"{target}: {packed.rows} clips and {len(rejects)} rejects from {manifest.rows} rows; delete it, pack anew"
        )
    return {
        "input": manifest.location,
        "output": target,
        "clips": packed.rows,
        "shards": len(packed.shards),
        "shards_skipped": skipped,
        "rejects": dict(sorted(Counter(outcome for _, outcome, _ in rejects).items())),
        "audio_mib": round(sum(record.audio_bytes for record in records) / 2**20, 3),
        "seconds": round(time.monotonic() - started, 3),
    }


def _claim(target: str, plan: dict[str, Any]) -> None:
    location = storage.join(target, PLAN)
    if not storage.exists(location):
        storage.write_json(location, plan)
        return
    changed = differences(storage.read_json(location), plan)
    if changed:
        short = "; ".join(line if len(line) < 100 else line.split(":")[0] + " differs" for line in changed)
        raise DataError(f"{target}: holds another packing ({short}); delete it or pack into another folder")


def _finished(target: str) -> list[_Record]:
    """The records of the shards that are whole, from the first on without a gap."""
    records: list[_Record] = []
    while True:
        try:
            content = storage.read_json(_record_location(target, len(records)))
        except FileNotFoundError:
            return records
        shard = Shard(**content["shard"]) if content["shard"] else None
        if shard is not None and not storage.exists(storage.join(target, "clips", shard.file)):
            return records
        rejects = [(clip_id, outcome, reason) for clip_id, outcome, reason in content["rejects"]]
        records.append(_Record(content["first_row"], content["end_row"], shard, rejects, content["audio_bytes"]))


def _record_location(target: str, index: int) -> str:
    return storage.join(target, "records", shard_name(index).replace(".parquet", ".json"))


def _pack_rest(
    manifest: ShardManifest, target: str, done: list[_Record], limits: PackLimits, threads: int
) -> Iterator[_Record]:
    """Write the shards after the last record, each with its record; a shard ends with the row that fills it."""
    first_row = done[-1].end_row if done else 0
    index = len(done)
    num_rejects = sum(len(record.rejects) for record in done)
    rows: list[dict[str, Any]] = []
    rejects: list[tuple[str, str, str]] = []
    num_bytes = 0
    for number, (row, problem) in enumerate(_contents(manifest, first_row, limits, threads), start=first_row):
        if problem is not None:
            rejects.append((row["clip_id"], problem.outcome, problem.reason))
        else:
            rows.append(row)
            num_bytes += len(row["audio"]["bytes"])
        if num_bytes >= limits.target_bytes or number == manifest.rows - 1:
            num_rejects += len(rejects)
            _check_share(num_rejects, number + 1, limits, rejects, target)
            yield _finish(target, index, rows, rejects, (first_row, number + 1))
            rows, rejects, num_bytes, first_row, index = [], [], 0, number + 1, index + 1


def _finish(
    target: str, index: int, rows: list[dict[str, Any]], rejects: list[tuple[str, str, str]], span: tuple[int, int]
) -> _Record:
    shard = None
    if rows:
        shard = write_shard(storage.join(target, "clips"), index, pa.Table.from_pylist(rows, schema=CLIPS))
    audio_bytes = sum(len(row["audio"]["bytes"]) for row in rows)
    record = _Record(*span, shard, rejects, audio_bytes)
    storage.write_json(_record_location(target, index), asdict(record))
    mib = audio_bytes / 2**20
    log.info("packed %s: %d clips, %.0f MiB, %d rejects", shard_name(index), len(rows), mib, len(rejects))
    return record


def _check_share(
    num_rejects: int, num_rows: int, limits: PackLimits, rejects: list[tuple[str, str, str]], target: str
) -> None:
    """A dead disk must not pass for many bad files."""
    if num_rejects > limits.max_failed_share * num_rows:
        examples = "; ".join(f"{clip_id}: {outcome}: {reason}" for clip_id, outcome, reason in rejects[:3])
        raise DataError(
            f"{target}: {num_rejects} of {num_rows} clips cannot be packed, above max_failed_share="
            f"{limits.max_failed_share:g}; such as {examples}"
        )


def _contents(
    manifest: ShardManifest, first_row: int, limits: PackLimits, threads: int
) -> Iterator[tuple[dict[str, Any], ClipError | None]]:
    """The rows from `first_row` on in order, with their bytes; the next window is read while one is used."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: list[list[Future[tuple[dict[str, Any], ClipError | None]]]] = []
        for window in _windows(manifest, first_row):
            waiting.append([pool.submit(_with_content, row, limits) for row in window])
            if len(waiting) > 1:
                yield from (future.result() for future in waiting.pop(0))
        for futures in waiting:
            yield from (future.result() for future in futures)


def _windows(manifest: ShardManifest, first_row: int) -> Iterator[list[dict[str, Any]]]:
    before = 0
    for location, shard in zip(manifest.files, manifest.shards, strict=True):
        if before + shard.rows > first_row:
            with storage.open_parquet(location) as file:
                row = before
                for batch in file.iter_batches(batch_size=CLIPS_PER_READ):
                    window = batch.slice(max(0, first_row - row)).to_pylist()
                    row += len(batch)
                    if window:
                        yield window
        before += shard.rows


def _with_content(row: dict[str, Any], limits: PackLimits) -> tuple[dict[str, Any], ClipError | None]:
    """The row with its bytes, or with the reason why there are none."""
    content, path = row["audio"]["bytes"], row["audio"]["path"]
    try:
        if content is None:
            content = _read(path, limits.max_clip_bytes)
        if not content:
            raise ClipError("empty", f"{path}: no bytes")
        if len(content) > limits.max_clip_bytes:
            raise ClipError("too_long", f"{path}: {len(content)} bytes, at most {limits.max_clip_bytes} are packed")
    except ClipError as error:
        return row, error
    name = path.rstrip("/").rsplit("/", 1)[-1] if path else None  # the name tells a decoder the format
    return {**row, "audio": {"bytes": content, "path": name}}, None


def _read(path: str | None, max_bytes: int) -> bytes:
    if path is None:
        raise ClipError("missing", "neither bytes nor a path")
    return read_clip_file(path, max_bytes + 1)
