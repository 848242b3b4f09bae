"""How near its neighbours are to each clip and to each caption, from the tables of a neighbour stage."""

# Shapes: Q queries.

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysem import storage
from raysem.errors import DataError
from raysem.ledger import Ledger


def mean_similarities(table: pa.Table, k: int) -> dict[str, float]:
    """For each row its mean cosine to the first `k` of its neighbours, the r of the margin rules.

    Raises:
        DataError: a row has no neighbour.
    """
    lengths_Q = pc.list_value_length(table["similarities"]).to_numpy(zero_copy_only=False).astype(np.int64)
    if len(lengths_Q) and lengths_Q.min() == 0:
        row = int(lengths_Q.argmin())
        raise DataError(f"{table.column_names[0]} {table.column(0)[row]}: the neighbour table has no neighbour of it")
    flat = pc.list_flatten(table["similarities"]).to_numpy().astype(np.float64)
    owner = np.repeat(np.arange(len(lengths_Q)), lengths_Q)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths_Q) - lengths_Q, lengths_Q)
    total_Q = np.bincount(owner[place < k], flat[place < k], minlength=len(lengths_Q))
    return dict(zip(table.column(0).to_pylist(), (total_Q / np.minimum(lengths_Q, k)).tolist(), strict=True))


def clip_means(neighbours: storage.Location, shard: str, k: int) -> dict[str, float]:
    """`mean_similarities` of the clips of one shard of embeddings."""
    return mean_similarities(storage.read_table(Ledger(neighbours).file_of(f"clips_{shard}", "clips")), k)


def caption_means(neighbours: storage.Location, k: int) -> dict[str, float]:
    """`mean_similarities` of all captions."""
    means: dict[str, float] = {}
    for file in Ledger(neighbours).files("captions"):
        means.update(mean_similarities(storage.read_table(file), k))
    return means
