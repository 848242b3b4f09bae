"""The one actor that writes what was embedded. It knows no model and no torch: it starts at once, and is small."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.errors import StageError
from raysem.ledger import DoneRecord, Ledger
from raysem.tables import KEPT, REJECTS, embeddings_schema

FINISHED = pa.schema(
    [
        ("shard", pa.string()),
        ("rows", pa.int64()),
        ("outcome_names", pa.list_(pa.string())),
        ("outcome_counts", pa.list_(pa.int64())),
    ]
)


class Collector:
    """It holds the units of the shards at work, and ends a shard with its done-record."""

    def __init__(self, output: storage.Location, id_name: Literal["clip_id", "caption_id"], metadata: dict[str, str]):
        self._ledger, self._id_name, self._metadata = Ledger(output), id_name, metadata
        self._units: dict[str, dict[int, dict[str, Any]]] = {}

    def __call__(self, batch: pa.Table) -> pa.Table:
        finished = []
        for unit in batch.to_pylist():
            shard = self._units.setdefault(unit["shard"], {})
            shard[unit["start"]] = unit  # a unit that comes twice (a retried task) takes its own place
            if len(shard) == unit["units"]:
                finished.append(self._write(unit["shard"], [shard[start] for start in sorted(shard)]))
                del self._units[unit["shard"]]
        return pa.Table.from_pylist(finished, schema=FINISHED)

    def _write(self, shard: str, units: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [clip_id for unit in units for clip_id in unit["ids"]]
        blocks = [np.frombuffer(unit["embeddings"], np.float32) for unit in units]
        flat = np.concatenate(blocks)
        width = len(flat) // len(ids) if ids else 1
        schema = embeddings_schema(self._id_name, width, self._metadata)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
        rejects = [
            {"clip_id": clip_id, "stage": "embed", "outcome": outcome, "reason": reason}
            for unit in units
            for clip_id, outcome, reason in zip(
                unit["reject_ids"], unit["reject_outcomes"], unit["reject_reasons"], strict=True
            )
        ]
        outcomes = Counter({KEPT: len(ids)}) if ids else Counter()
        outcomes.update(reject["outcome"] for reject in rejects)
        rows = units[0]["rows"]
        if sum(outcomes.values()) != rows:
            raise StageError(f"{shard}: {rows} rows went in, {sum(outcomes.values())} came out")
        record = DoneRecord(
            shard,
            rows,
            outcomes,
            seconds=round(sum(unit["seconds"] for unit in units), 3),
            audio_seconds=round(sum(unit["audio_seconds"] for unit in units), 3),
        )
        tables = {"shards": pa.table([pa.array(ids, pa.string()), vectors], schema=schema)}
        if self._id_name == "clip_id":
            tables["rejects"] = pa.Table.from_pylist(rejects, schema=REJECTS)
        self._ledger.finish(record, tables)
        return {
            "shard": shard,
            "rows": rows,
            "outcome_names": list(outcomes),
            "outcome_counts": list(outcomes.values()),
        }
