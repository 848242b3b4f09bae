"""What has been done, as files: one done-record a shard, so that a killed attempt's work is used by the next.

A stage's folder holds `shards/<name>.parquet` and `done/<name>.json`. The record is written after the file it speaks
of, carries that file's digest and one of itself, and is the only proof that the shard is finished. Two attempts that
make the same shard write the same files.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from raysem import config, storage

log = logging.getLogger(__name__)

ROW_GROUP_BYTES = 16 * 2**20  # whoever reads a few rows reads their row group whole: training does, row by row
MAX_ROW_GROUP_ROWS = 65_536
PLAN = "plan.json"


@dataclass(frozen=True)
class DoneRecord:
    """One finished shard. `outcomes` counts every row of the input shard once."""

    shard: str
    rows: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    audio_seconds: float = 0.0
    digests: Mapping[str, str] = field(default_factory=dict)  # kind -> SHA-256 of its file

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcomes", dict(self.outcomes))  # a Counter would not survive asdict


class Ledger:
    """The done-records of one stage's folder."""

    def __init__(self, folder: storage.Location):
        self.folder = folder

    def file_of(self, shard: str, kind: str = "shards") -> storage.Location:
        """Where the output of `shard` lies; `kind` is the sub-folder (`shards`, `rejects`, ...)."""
        return storage.join(self.folder, kind, f"{shard}.parquet")

    def files(self, kind: str = "shards") -> list[storage.Location]:
        """Every output file of a kind, in the order of the shards' names."""
        return storage.list_files(storage.join(self.folder, kind), ".parquet")

    def plan(self, num_shards: int) -> None:
        """Note how many shards there are to make, for whoever watches."""
        storage.write_json(storage.join(self.folder, PLAN), {"shards": num_shards})

    def finish(self, record: DoneRecord, tables: Mapping[str, pa.Table]) -> DoneRecord:
        """Write the shard's tables (by kind), then its record with their digests."""
        digests = {}
        for kind, table in tables.items():
            location = self.file_of(record.shard, kind)
            storage.write_table(location, table, row_group_rows=_row_group_rows(table))
            digests[kind] = storage.digest_of(location)
        written = DoneRecord(**{**asdict(record), "digests": digests})
        content = asdict(written)
        about = storage.join(self.folder, "done", f"{record.shard}.json")
        storage.write_json(about, {**content, "check": config.digest(content)})
        return written

    def records(self, *, verify: bool = False) -> dict[str, DoneRecord]:
        """Finished shards by name. With `verify`, a record whose file is gone or altered does not count."""
        locations = storage.list_files(storage.join(self.folder, "done"), ".json")
        with ThreadPoolExecutor(16) as pool:
            found = [record for record in pool.map(self._read, locations) if record is not None]
            sound = pool.map(self._is_sound, found) if verify else [True] * len(found)
            return {record.shard: record for record, good in zip(found, sound, strict=True) if good}

    def pending(self, shards: Iterable[str], *, verify: bool = True) -> list[str]:
        """The shards that still have to be made, in the order given; see `records` for `verify`."""
        done = self.records(verify=verify)
        return [shard for shard in shards if shard not in done]

    def is_damaged(self) -> bool:
        """Whether a shard that was planned, or has a record, is not there as it was written; reads every file."""
        noted = storage.list_files(storage.join(self.folder, "done"), ".json")
        try:
            planned = int(storage.read_json(storage.join(self.folder, PLAN))["shards"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            planned = 0
        return len(self.records(verify=True)) < max(planned, len(noted))

    def _read(self, location: storage.Location) -> DoneRecord | None:
        try:
            return read_record(location)
        except ValueError as error:
            log.warning("%s: not a done-record (%s); its shard is made again", location, error)
            return None

    def _is_sound(self, record: DoneRecord) -> bool:
        for kind, expected in record.digests.items():
            location = self.file_of(record.shard, kind)
            try:
                found = storage.digest_of(location)
            except FileNotFoundError:
                found = "nothing"
            if found != expected:
                log.warning("%s: digest %s, its record says %s; the shard is made again", location, found, expected)
                return False
        return True


def read_record(location: storage.Location) -> DoneRecord:
    """The done-record in a file.

    Raises:
        ValueError: it holds none: cut short, altered since it was written, or of another shard than its name says.
    """
    content = storage.read_json(location)
    try:
        content.pop("attempt", None)  # a field of older records, which are as good
        check = content.pop("check", None)  # they have none
        if check is not None and check != config.digest(content):
            raise ValueError("altered since it was written")
        record = DoneRecord(**content)
        numbers = (record.rows, record.seconds, record.audio_seconds, *record.outcomes.values())
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError("its counts are no numbers")
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    if record.shard != storage.name_of(location):
        raise ValueError(f"speaks of {record.shard}")
    return record


def _row_group_rows(table: pa.Table) -> int:
    """Few where a row is large, as with audio bytes inside."""
    return min(max(ROW_GROUP_BYTES * len(table) // max(table.nbytes, 1), 1), MAX_ROW_GROUP_ROWS)


def total(records: Iterable[DoneRecord]) -> dict[str, Any]:
    """Sums over all attempts: shards, rows, outcomes, seconds of work and of audio."""
    outcomes: Counter[str] = Counter()
    count, rows, seconds, audio_seconds = 0, 0, 0.0, 0.0
    for record in records:
        count += 1
        rows += record.rows
        seconds += record.seconds
        audio_seconds += record.audio_seconds
        outcomes.update(record.outcomes)
    return {
        "shards": count,
        "rows": rows,
        "outcomes": dict(sorted(outcomes.items())),
        "work_seconds": round(seconds, 3),
        "audio_seconds": round(audio_seconds, 3),
    }
