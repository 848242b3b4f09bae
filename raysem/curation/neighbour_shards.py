"""Nearest-neighbour tables between clips and captions, a shard at a time, and what rules and reports read from them.

A neighbour stage's folder holds `clips/clips_<shard>.parquet` (each clip's nearest captions) and
`captions/captions_<shard>.parquet` (each caption's nearest clips), named by the shards of embeddings. No Ray here.
"""

# Shapes: Q queries, N rows among which neighbours are looked up, D embedding width, K neighbours.

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raysem import storage
from raysem.curation.embeddings import embedding_matrix, embedding_tables, read_embeddings
from raysem.curation.neighbours import NeighbourIndex, NeighbourSettings, NeighbourTable, build_index, exact_neighbours
from raysem.errors import DataError
from raysem.ledger import DoneRecord, Ledger
from raysem.tables import KEPT

Side = Literal["clips", "captions"]

ROWS_PER_CHUNK = 65_536  # of the captions held: a search copies no more than these


def neighbours_schema(side: Side) -> pa.Schema:
    """One row a clip (or caption): its nearest captions (clips), most similar first, with their cosines."""
    ids = ("clip_id", "caption_ids") if side == "clips" else ("caption_id", "clip_ids")
    return pa.schema(
        [
            (ids[0], pa.string()),
            (ids[1], pa.list_(pa.string())),
            ("similarities", pa.list_(pa.float32())),
            ("mean_similarity", pa.float32()),
        ]
    )


def neighbour_shards(clips: storage.Location, captions: storage.Location) -> list[str]:
    """Names of the shards that `NeighbourShards` makes from two folders of embeddings."""
    sides: dict[Side, storage.Location] = {"clips": clips, "captions": captions}
    return [f"{side}_{shard}" for side, folder in sides.items() for shard in sorted(Ledger(folder).records())]


class NeighbourShards:
    """The k nearest captions of each clip of a shard, or the k nearest clips of each caption of a shard.

    The captions are held: as they are and searched exactly, or as the index at `index` where they are too many. The
    clips, of which there may be any number, are streamed for each shard of captions and merged exactly.
    """

    def __init__(
        self,
        clips: storage.Location,
        captions: storage.Location,
        k: int,
        index: storage.Location | None = None,
        threads: int = 1,
    ):
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        self._ledgers: dict[Side, Ledger] = {"clips": Ledger(clips), "captions": Ledger(captions)}
        self._k, self._index_at = k, index
        self._caption_ids: pa.Array | None = None
        self._text_ND = np.zeros((0, 1), np.float32)
        self._index: NeighbourIndex | None = None

    def __call__(self, shard: str) -> tuple[DoneRecord, dict[str, pa.Table]]:
        name, _, of = shard.partition("_")
        side: Side = "clips" if name == "clips" else "captions"
        table = storage.read_table(self._ledgers[side].file_of(of))
        if not len(table):
            return DoneRecord(shard, 0), {side: neighbours_schema(side).empty_table()}
        search = self._captions_of if side == "clips" else self._clips_of
        found, ids = search(embedding_matrix(table))
        return DoneRecord(shard, len(table), {KEPT: len(table)}), {side: _as_table(side, table.column(0), found, ids)}

    def _captions_of(self, audio_QD: np.ndarray) -> tuple[NeighbourTable, pa.Array]:
        if self._caption_ids is None:
            self._load_captions()
        assert self._caption_ids is not None
        if self._index is not None:
            return self._index.search(audio_QD, self._k), self._caption_ids
        starts = range(0, len(self._text_ND), ROWS_PER_CHUNK)
        chunks = (self._text_ND[start : start + ROWS_PER_CHUNK] for start in starts)
        return exact_neighbours(audio_QD, chunks, self._k), self._caption_ids

    def _load_captions(self) -> None:
        captions = self._ledgers["captions"]
        if self._index_at is None:
            ids, self._text_ND = read_embeddings(captions.folder)
        else:
            self._index = NeighbourIndex.from_bytes(storage.read_bytes(self._index_at))
            ids = pa.chunked_array([storage.read_table(file, ["caption_id"]).column(0) for file in captions.files()])
        self._caption_ids = ids.combine_chunks()

    def _clips_of(self, text_QD: np.ndarray) -> tuple[NeighbourTable, pa.Array]:
        ids: list[pa.ChunkedArray] = []

        def chunks() -> Iterator[np.ndarray]:
            for table in embedding_tables(self._ledgers["clips"].folder):
                ids.append(table.column(0))
                yield embedding_matrix(table)

        found = exact_neighbours(text_QD, chunks(), self._k)
        parts = [chunk for column in ids for chunk in column.chunks]
        return found, pa.concat_arrays([pa.array([], pa.string()), *parts])


def prepare_index(
    captions: storage.Location,
    clips: storage.Location,
    location: storage.Location,
    settings: NeighbourSettings,
) -> dict[str, Any]:
    """Write an index of all captions to `location`, for `NeighbourShards`; returns its recall with clips as queries.

    Recall is measured with clips because they lie apart from the captions: with captions as queries, inverted lists
    look better than they are.
    """
    about = f"{location}.json"
    if storage.exists(about):
        return storage.read_json(about)
    queries_QD = _sampled_rows(clips, settings.recall_queries)
    index = build_index(
        lambda: (embedding_matrix(table) for table in embedding_tables(captions)),
        settings,
        queries_QD=queries_QD,
    )
    storage.write_bytes(location, index.to_bytes())
    facts = {
        "captions": len(index),
        "exact": index.is_exact,
        "recall": index.recall,
        "recall_k": settings.recall_k,
        "recall_queries": len(queries_QD),
    }
    storage.write_json(about, facts)
    return facts


def occurrences(neighbours: storage.Location, side: Side, k: int) -> Counter[str]:
    """How often each caption is among a clip's `k` nearest (`clips`), or each clip among a caption's (`captions`)."""
    counts: Counter[str] = Counter()
    for file in Ledger(neighbours).files(side):
        lists = storage.read_table(file).column(1)
        for entry in pc.value_counts(pc.list_flatten(pc.list_slice(lists, 0, k))).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return counts


def _as_table(side: Side, ids: pa.ChunkedArray, found: NeighbourTable, neighbour_ids: pa.Array) -> pa.Table:
    there_QK = found.index_QK >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(there_QK.sum(axis=1))]), pa.int32())
    names = neighbour_ids.take(pa.array(found.index_QK[there_QK], pa.int64()))
    columns = [
        ids.combine_chunks(),
        pa.ListArray.from_arrays(offsets, names),
        pa.ListArray.from_arrays(offsets, pa.array(found.similarity_QK[there_QK], pa.float32())),
        pa.array(found.mean_similarity(), pa.float32()),
    ]
    return pa.table(columns, schema=neighbours_schema(side))


def _sampled_rows(embeddings: storage.Location, size: int, *, max_shards: int = 32) -> np.ndarray:
    """About `size` rows, evenly placed over up to `max_shards` evenly placed shards."""
    files = Ledger(embeddings).files()
    chosen = files[:: max(-(-len(files) // max_shards), 1)]
    per_shard = -(-size // max(len(chosen), 1))
    rows = [_evenly(embedding_matrix(table), per_shard) for table in map(storage.read_table, chosen) if len(table)]
    if not rows:
        raise DataError(f"{embeddings}: no embeddings there")
    return np.concatenate(rows)[:size]


def _evenly(rows_ND: np.ndarray, size: int) -> np.ndarray:
    return rows_ND[np.unique(np.linspace(0, len(rows_ND) - 1, min(size, len(rows_ND))).astype(int))]
