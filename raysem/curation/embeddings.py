"""Tables of embeddings as arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.errors import DataError
from raysem.ledger import Ledger


def embedding_matrix(table: pa.Table) -> np.ndarray:
    """The column `embedding` as float32 (rows, D)."""
    column = table.column("embedding").combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(table), width)


def embedding_tables(folder: storage.Location) -> Iterator[pa.Table]:
    """The shards of a stage one by one, without the empty ones: if all its rows were rejected, a shard has no width."""
    for file in Ledger(folder).files():
        table = storage.read_table(file)
        if len(table):
            yield table


def read_embeddings(folder: storage.Location) -> tuple[pa.ChunkedArray, np.ndarray]:
    """(identifiers, embeddings) of all shards of a stage, in the order of the shards."""
    files = Ledger(folder).files()
    if not files:
        raise DataError(f"{folder}: no embeddings there")
    table = pa.concat_tables(list(embedding_tables(folder)) or [storage.read_table(files[0])])
    return table.column(0), embedding_matrix(table)
