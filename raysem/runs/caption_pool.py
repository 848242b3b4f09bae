"""The pool of captions of a run: those of several parts, each text once, sorted by `caption_id`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysem import storage
from raysem.errors import DataError
from raysem.runs.roles import caption_shards, write_captions


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
    if not texts:
        raise DataError(f"{', '.join(parts)}: no caption; give corpora.captions, or captions to corpora.teacher")
    write_captions(folder, texts, labels)
    return {"captions": len(texts)}
