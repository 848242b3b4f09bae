"""A driver as `embed_clips` has it, without Ray and audio, in a process of its own: its memory is its own.

    python scale_driver.py {write|resume} FOLDER NUM_CLIPS [BUFFER_MIB]

`write` sorts synthetic rows into shards and finishes every second one with random embeddings; `resume` plans what is
left. Each prints one JSON object: what it found, the MiB that its resident memory grew, and seconds of its steps.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow as pa

from raysem import storage
from raysem.corpora.shards import Shard, read_manifest, write_shards
from raysem.curation.ray_stages import EmbedSettings, _outcomes, _units
from raysem.ledger import DoneRecord, Ledger, total
from raysem.tables import CLIPS, KEPT, embeddings_schema

T = TypeVar("T")
ROWS_PER_TABLE = 50_000
WIDTH = 8  # of the embeddings: their size is no matter of planning, only of what is verified
WATCH_SECONDS = 0.005


def tables(num_clips: int) -> Iterator[pa.Table]:
    """Clips by path, in an order of their own: each table's ids lie all over the pool."""
    count = -(-num_clips // ROWS_PER_TABLE)
    for first in range(count):
        numbers = np.arange(first, num_clips, count)
        ids = pa.array([f"clip_{number:09d}" for number in numbers.tolist()])
        paths = pa.array([f"s3://bucket/pool/{number:09d}.flac" for number in numbers.tolist()])
        audio = pa.StructArray.from_arrays([pa.nulls(len(ids), pa.binary()), paths], ["bytes", "path"])
        known = {"clip_id": ids, "audio": audio, "duration_seconds": pa.array(np.full(len(ids), 10.0))}
        yield pa.table([known.get(field.name, pa.nulls(len(ids), field.type)) for field in CLIPS], schema=CLIPS)


def write(folder: str, num_clips: int, buffer_mib: float) -> dict[str, Any]:
    watch = Watch()
    manifest = watch.step("sort and write", lambda: write_shards(tables(num_clips), folder, buffer_mib=buffer_mib))
    ledger, generator = Ledger(storage.join(folder, "embed")), np.random.default_rng(0)

    def finish(shard: Shard) -> None:
        values = pa.array(generator.standard_normal(shard.rows * WIDTH).astype(np.float32))
        ids = storage.read_table(storage.join(folder, shard.file), ["clip_id"])["clip_id"].combine_chunks()
        vectors = pa.FixedSizeListArray.from_arrays(values, WIDTH)
        table = pa.table([ids, vectors], schema=embeddings_schema("clip_id", WIDTH, {}))
        record = DoneRecord(
            storage.name_of(shard.file), shard.rows, {KEPT: shard.rows}, audio_seconds=10.0 * shard.rows
        )
        ledger.finish(record, {"shards": table})

    watch.step("finish half", lambda: [finish(shard) for shard in manifest.shards[::2]])
    return {"rows": manifest.rows, "shards": len(manifest.shards), **watch.found()}


def resume(folder: str) -> dict[str, Any]:
    """The calls of `_embed` up to the pipeline, in their order, for a run that was killed half way."""
    watch = Watch()
    manifest = watch.step("manifest", lambda: read_manifest(folder))
    ledger = Ledger(storage.join(folder, "embed"))
    by_name = {storage.name_of(file): file for file in manifest.files}
    watch.step("note the plan", lambda: ledger.plan(len(by_name)))
    pending = watch.step("read and verify done-records", lambda: ledger.pending(by_name, verify=True))
    left = {name: by_name[name] for name in pending}
    units, rows = watch.step("units", lambda: _units(left, EmbedSettings().clips_per_unit))
    counts = watch.step("outcomes", lambda: _outcomes(ledger, by_name.keys() - set(pending)))
    return {
        "pending": pending,
        "rows": rows,
        "units": len(units),
        "covered": _covered(units),
        "outcomes": dict(counts),
        "done": total(ledger.records().values()),
        **watch.found(),
    }


def _covered(units: list[dict[str, Any]]) -> dict[str, int]:
    """Rows of each shard, if its units follow one another without a gap or an overlap from 0 to its end; else -1."""
    ends: dict[str, int] = {}
    for unit in units:
        ends[unit["shard"]] = unit["stop"] if ends.get(unit["shard"], 0) == unit["start"] else -1
    whole = {unit["shard"]: unit["rows"] for unit in units}
    return {shard: end if end == whole[shard] else -1 for shard, end in ends.items()}


class Watch:
    """The highest resident memory since it was made, and the seconds of each step."""

    def __init__(self) -> None:
        gc.collect()
        self._process, self._seconds = psutil.Process(), dict[str, float]()
        self._start = self._peak = self._process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def step(self, name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = work()
        self._seconds[name] = round(time.perf_counter() - began, 2)
        return result

    def found(self) -> dict[str, Any]:
        self._peak = max(self._peak, self._process.memory_info().rss)
        self._stop.set()
        self._thread.join()
        cpu = self._process.cpu_times()
        return {
            "grown_mib": round((self._peak - self._start) / 2**20, 1),
            "cpu_seconds": round(cpu.user + cpu.system, 1),
            "seconds": self._seconds,
        }

    def _look(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            self._peak = max(self._peak, self._process.memory_info().rss)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder, num_clips, *buffer]:
            print(json.dumps(write(folder, int(num_clips), float(buffer[0]) if buffer else 256)))
        case ["resume", folder]:
            print(json.dumps(resume(folder)))
