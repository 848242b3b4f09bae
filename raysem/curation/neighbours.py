"""Tables of the k nearest neighbours, with faiss: exact, or by inverted lists beyond a stated size."""

# Shapes: Q queries, N rows indexed, D embedding width, K neighbours.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from raysem.config import Settings
from raysem.curation.matching import pair_similarity

log = logging.getLogger(__name__)

Chunks = Callable[[], Iterable[np.ndarray]]
"""Called once per pass; gives the rows to index, float (rows, D) of unit length, the same ones in the same order."""


class NeighbourSettings(Settings):
    """How nearest neighbours are looked up."""

    exact_up_to: PositiveInt = 1_000_000
    """Rows up to which the index is flat and exact (4 bytes x D each); beyond, inverted lists of float16 rows."""
    num_lists: PositiveInt | None = None
    """Inverted lists; by default 4 sqrt(rows)."""
    lists_per_query: PositiveInt = 64
    recall_queries: PositiveInt = 256
    """Queries whose neighbours are also looked up exactly, to measure the recall of inverted lists."""
    recall_k: PositiveInt = 10
    min_recall: float = Field(0.0, ge=0, le=1)
    """Below it, building warns."""
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class NeighbourTable:
    """Row q: the K nearest of query q, most similar first, equal ones by index. No neighbour: -1 with -inf."""

    index_QK: np.ndarray
    similarity_QK: np.ndarray

    def mean_similarity(self) -> np.ndarray:
        """float64 (Q,): mean cosine to the neighbours found, the r of the margin rules."""
        found_QK = self.index_QK >= 0
        total_Q = np.where(found_QK, self.similarity_QK.astype(np.float64), 0).sum(axis=1)
        return total_Q / np.maximum(found_QK.sum(axis=1), 1)


class NeighbourIndex:
    """An index over unit rows; `recall` is that of inverted lists, measured against exact search, and 1 if flat."""

    def __init__(self, index: faiss.Index, recall: float):
        self._index, self.recall = index, recall

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def is_exact(self) -> bool:
        return isinstance(self._index, faiss.IndexFlatIP)

    def to_bytes(self) -> bytes:
        """The index as a file, so that it is built once and read by many processes."""
        return faiss.serialize_index(self._index).tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, recall: float = 1.0) -> NeighbourIndex:
        """The index that `to_bytes` wrote; it searches as the first one does."""
        return cls(faiss.deserialize_index(np.frombuffer(content, np.uint8)), recall)

    def search(self, query_QD: np.ndarray, k: int) -> NeighbourTable:
        """The min(k, rows) nearest rows of each query."""
        query_QD = _checked(query_QD, self._index.d)
        similarity_QK, index_QK = self._index.search(query_QD, min(_positive(k), len(self)))
        return _ordered(index_QK, similarity_QK)


def build_index(
    chunks: Chunks, settings: NeighbourSettings | None = None, *, queries_QD: np.ndarray | None = None
) -> NeighbourIndex:
    """Index all rows of `chunks`: flat up to `settings.exact_up_to` rows, else inverted lists with measured recall.

    A pass counts the rows, a pass adds them; inverted lists take two more, for their training rows and the recall.

    Args:
        queries_QD: what the recall is measured with; by default rows of the index.
    """
    settings = settings or NeighbourSettings()
    num_rows, width = 0, 0
    for rows in chunks():
        if width and rows.shape[1] != width:
            raise ValueError(f"rows {num_rows} onward have width {rows.shape[1]}, those before {width}")
        num_rows, width = num_rows + len(rows), rows.shape[1]
    if not num_rows:
        raise ValueError("no rows to index")
    if num_rows <= settings.exact_up_to:
        flat = faiss.IndexFlatIP(width)
        for rows in chunks():
            flat.add(_checked(rows, width))
        return NeighbourIndex(flat, recall=1.0)
    index = _inverted_lists(chunks, num_rows, width, settings)
    if queries_QD is None:
        queries_QD = _rows_at(chunks, _sample(num_rows, settings.recall_queries, settings.seed + 1))
    exact = exact_neighbours(queries_QD, chunks(), settings.recall_k)
    recall = recall_of(NeighbourIndex(index, 1.0).search(queries_QD, settings.recall_k), exact)
    if recall < settings.min_recall:
        log.warning("neighbours: recall %.3f is below %.3f; raise lists_per_query", recall, settings.min_recall)
    return NeighbourIndex(index, recall)


def exact_neighbours(query_QD: np.ndarray, chunks: Iterable[np.ndarray], k: int) -> NeighbourTable:
    """The k nearest rows of each query over a stream of chunks, in the memory of one chunk and the table.

    Similarities are those of `pair_similarity`, the same however the rows are cut into chunks.
    """
    query_QD = np.ascontiguousarray(query_QD, dtype=np.float32)
    table = NeighbourTable(np.empty((len(query_QD), 0), np.int64), np.empty((len(query_QD), 0), np.float32))
    start = 0
    for rows in chunks:
        rows = _checked(rows, query_QD.shape[1])
        index = faiss.IndexFlatIP(query_QD.shape[1])
        index.add(rows)
        nearest_QK = index.search(query_QD, min(_positive(k), len(rows)))[1] if len(rows) else table.index_QK[:, :0]
        queries = np.repeat(np.arange(len(query_QD)), nearest_QK.shape[1])
        similarity_P = np.asarray(pair_similarity(query_QD, rows, queries, nearest_QK.ravel()))
        nearest = NeighbourTable(nearest_QK + start, similarity_P.reshape(nearest_QK.shape))
        table = merge_neighbours([table, nearest], k)
        start += len(rows)
    return table


def merge_neighbours(tables: Sequence[NeighbourTable], k: int) -> NeighbourTable:
    """The k nearest of each query over tables made from disjoint rows: exact if each table is, and in any order."""
    if len({len(table.index_QK) for table in tables}) != 1:
        raise ValueError(f"tables for different queries: {[len(table.index_QK) for table in tables]} rows")
    merged = _ordered(
        np.concatenate([table.index_QK for table in tables], axis=1),
        np.concatenate([table.similarity_QK for table in tables], axis=1),
    )
    return NeighbourTable(merged.index_QK[:, : _positive(k)], merged.similarity_QK[:, :k])


def recall_of(found: NeighbourTable, exact: NeighbourTable) -> float:
    """Share of the exact neighbours that were found."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found.index_QK, exact.index_QK, strict=True)]
    return float(np.sum(hits) / max(exact.index_QK.size, 1))


def _inverted_lists(chunks: Chunks, num_rows: int, width: int, settings: NeighbourSettings) -> faiss.Index:
    num_lists = settings.num_lists or min(int(4 * np.sqrt(num_rows)), num_rows)
    quantizer = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, width, num_lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.nprobe = min(settings.lists_per_query, num_lists)
    index.cp.seed = settings.seed
    # 64 rows a list is enough to place it, and the sample stays small beside the index
    index.train(_rows_at(chunks, _sample(num_rows, 64 * num_lists, settings.seed)))
    for rows in chunks():
        index.add(_checked(rows, width))
    return index


def _sample(num_rows: int, size: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.sort(random.choice(num_rows, min(size, num_rows), replace=False))


def _rows_at(chunks: Chunks, positions: np.ndarray) -> np.ndarray:
    """Rows at sorted positions of the stream."""
    taken, start = [], 0
    for rows in chunks():
        low, high = np.searchsorted(positions, [start, start + len(rows)])
        taken.append(np.asarray(rows[positions[low:high] - start], np.float32))
        start += len(rows)
    return np.concatenate(taken)


def _ordered(index_QK: np.ndarray, similarity_QK: np.ndarray) -> NeighbourTable:
    similarity_QK = np.where(index_QK >= 0, similarity_QK, -np.inf).astype(np.float32)
    order_QK = np.lexsort((index_QK, -similarity_QK), axis=1)
    return NeighbourTable(
        np.take_along_axis(index_QK, order_QK, axis=1), np.take_along_axis(similarity_QK, order_QK, axis=1)
    )


def _checked(rows: np.ndarray, width: int) -> np.ndarray:
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"expected rows of width {width}, got {rows.shape}")
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"row {int((~np.isfinite(rows)).any(axis=1).argmax())} is not finite")
    return rows


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"k = {k}: at least one neighbour")
    return k
