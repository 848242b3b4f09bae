"""Examples as rows of an Arrow table, so that they cross processes as plain columns; an error of ours as such a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from raysem.errors import ConfigError, DataError, RaysemError, StageError, StorageError, UserError
from raysem.training.examples import Example, Examples
from raysem.training.rejects import UnusableClip

# Shapes: B examples, T samples.

PLACES = pa.schema([("source", pa.int64()), ("row", pa.int64()), ("epoch", pa.int64())])
"""What an example is made of: arguments of `Examples.example`."""

PACKED = pa.schema(
    [
        ("crop", pa.large_list(pa.float32())),
        ("texts", pa.list_(pa.struct([("text", pa.string()), ("weight", pa.float64())]))),
        ("clip_id", pa.string()),
        (
            "unusable",
            pa.list_(pa.struct([("clip_id", pa.string()), ("outcome", pa.string()), ("reason", pa.string())])),
        ),
        ("num_clips", pa.int64()),
        ("error", pa.struct([("kind", pa.string()), ("line", pa.string())])),
    ]
)
"""One example a row; in a row with an `error` the rest is null."""


def packed_examples(examples: Examples, places: pa.Table) -> pa.Table:
    """PACKED rows of PLACES, in order, up to the first that raises an error of ours, which is the last row.

    So an error comes where the example would have come, and as itself.
    """
    made: list[Example] = []
    failed: RaysemError | None = None
    for source, row, epoch in zip(*(places.column(name).to_pylist() for name in PLACES.names), strict=True):
        try:
            made.append(examples.example(source, row, epoch))
        except RaysemError as error:
            failed = error
            break
    return _pack(made, failed)


def unpacked_examples(packed: pa.Table) -> Iterator[Example]:
    """The examples of PACKED rows; their crops are read-only views of it.

    Raises:
        RaysemError: the one that was packed, where it was.
    """
    for chunk in packed.to_batches():
        crops = chunk.column("crop")
        rest = chunk.drop_columns(["crop"]).to_pylist()
        for index, row in enumerate(rest):
            if row["error"] is not None:
                raise _KINDS[row["error"]["kind"]](row["error"]["line"])
            yield Example(
                crops[index].values.to_numpy(zero_copy_only=True),
                {text["text"]: text["weight"] for text in row["texts"]},
                row["clip_id"],
                tuple(UnusableClip(**clip) for clip in row["unusable"]),
                row["num_clips"],
            )


def _pack(made: list[Example], failed: RaysemError | None) -> pa.Table:
    offsets_B = np.cumsum([0, *(len(example.crop_T) for example in made)])
    samples = np.concatenate([np.zeros(0, np.float32), *(example.crop_T for example in made)])
    if samples.dtype != np.float32:
        raise ValueError(f"crops are float32, got {samples.dtype}")
    rows = [
        {
            "texts": [{"text": text, "weight": weight} for text, weight in example.texts.items()],
            "clip_id": example.clip_id,
            "unusable": [vars(clip) for clip in example.unusable],
            "num_clips": example.num_clips,
            "error": None,
        }
        for example in made
    ]
    columns = pa.Table.from_pylist(rows, schema=pa.schema([field for field in PACKED if field.name != "crop"]))
    crops = pa.LargeListArray.from_arrays(pa.array(offsets_B, pa.int64()), pa.array(samples))
    table = columns.add_column(0, PACKED.field("crop"), crops).cast(PACKED)
    if failed is None:
        return table
    last = {"error": {"kind": _kind(failed), "line": str(failed)}}
    return pa.concat_tables([table, pa.Table.from_pylist([last], schema=PACKED)])


def _kind(error: RaysemError) -> str:
    """The class that says most of those that are made of one line."""
    return next(name for name, kind in _KINDS.items() if isinstance(error, kind))


_KINDS: dict[str, type[RaysemError]] = {
    kind.__name__: kind for kind in (StorageError, DataError, ConfigError, UserError, StageError, RaysemError)
}


def place_table(places: Iterable[tuple[int, int, int]]) -> pa.Table:
    """PLACES of (source, row, epoch)."""
    columns = np.array(list(places), dtype=np.int64).reshape(-1, 3).T
    return pa.table([pa.array(column) for column in columns], schema=PLACES)
