"""The pool of captions of a run: those of several parts, each text once, sorted by `caption_id`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from raysem import storage
from raysem.errors import DataError
from raysem.runs.roles import CAPTIONS_PER_SHARD, caption_shards
from raysem.tables import CAPTIONS

LABELS = pa.schema([("caption_id", pa.string()), ("labels", pa.list_(pa.string()))])


def build(folder: storage.Location, parts: Sequence[storage.Location]) -> dict[str, Any]:
    """Join the captions of `parts` (folders of `roles.build_part`) below `folder`, in the same layout."""
    texts: dict[str, dict[str, Any]] = {}
    labels: dict[str, set[str]] = {}
    for part in parts:
        for file in caption_shards(part):
            for row in storage.read_table(file).to_pylist():
                texts.setdefault(row["caption_id"], row)
        for row in storage.read_table(storage.join(part, "caption_labels.parquet")).to_pylist():
            labels.setdefault(row["caption_id"], set()).update(row["labels"])
    ids = sorted(texts)
    if not ids:
        raise DataError(f"{', '.join(parts)}: no caption; give corpora.captions, or captions to corpora.teacher")
    for start in range(0, len(ids), CAPTIONS_PER_SHARD):
        rows = [texts[key] for key in ids[start : start + CAPTIONS_PER_SHARD]]
        name = f"shard_{start // CAPTIONS_PER_SHARD:05d}.parquet"
        storage.write_table(storage.join(folder, "captions", name), pa.Table.from_pylist(rows, schema=CAPTIONS))
    known = [{"caption_id": key, "labels": sorted(labels.get(key, ()))} for key in ids]
    storage.write_table(storage.join(folder, "caption_labels.parquet"), pa.Table.from_pylist(known, schema=LABELS))
    return {"captions": len(ids)}
