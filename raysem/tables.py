"""The tables that cross a stage: one pyarrow schema each, and the words used in them.

`clip_id` is unique within a clips table. Audio is Hugging Face's layout: the bytes in the table, or a path or URI
beside them. Identifiers and texts are plain Arrow strings, embeddings are fixed-size lists.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from raysem.errors import DataError

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

CLIPS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("audio", AUDIO),
        ("start_seconds", pa.float64()),  # null: from the beginning
        ("duration_seconds", pa.float64()),  # null: to the end
        ("captions", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
        ("fold", pa.int32()),
        ("split", pa.string()),
        ("source", pa.string()),
    ]
)

CAPTIONS = pa.schema([("caption_id", pa.string()), ("text", pa.string()), ("source", pa.string())])

SCORED_PAIRS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("caption_id", pa.string()),
        ("similarity", pa.float32()),
        ("rank_for_clip", pa.int32()),  # 1 is the clip's nearest caption
        ("rank_for_caption", pa.int32()),  # 1 is the caption's nearest clip
    ]
)

IMPROVEMENT_SET = pa.schema(
    [
        ("clip_id", pa.string()),
        ("audio", AUDIO),
        ("start_seconds", pa.float64()),
        ("duration_seconds", pa.float64()),
        (
            "captions",
            pa.list_(pa.struct([("caption_id", pa.string()), ("text", pa.string()), ("similarity", pa.float32())])),
        ),
        ("strategy", pa.string()),
        ("rule", pa.string()),
        ("threshold", pa.float32()),
        ("teacher", pa.string()),  # fingerprint of the weights that scored the pairs
    ]
)

REJECTS = pa.schema(
    [("clip_id", pa.string()), ("stage", pa.string()), ("outcome", pa.string()), ("reason", pa.string())]
)

KEPT = "kept"
RejectOutcome = Literal[
    "missing",  # nothing at the path
    "empty",  # zero bytes, or no samples
    "undecodable",  # neither decoder can read it
    "truncated",  # the container promises more samples than can be decoded
    "too_short",
    "too_long",  # longer, or larger once decoded, than the limits allow
    "silent",
    "non_finite",  # NaN or infinity among the samples
    "excluded_overlap",  # part of, or a near-duplicate of, an evaluation set
    "duplicate",  # a near-duplicate of an earlier clip
    "crashed_decoder",  # the decoder's process died on it
]
REJECT_OUTCOMES: tuple[str, ...] = RejectOutcome.__args__  # type: ignore[attr-defined]


def embeddings_schema(id_name: Literal["clip_id", "caption_id"], width: int, metadata: dict[str, str]) -> pa.Schema:
    """Schema of an embeddings table, D = `width` float32; `metadata` names the weights and the front end."""
    fields = [(id_name, pa.string()), ("embedding", pa.list_(pa.float32(), width))]
    return pa.schema(fields, metadata=metadata)


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` with exactly the columns of `schema`, in order; optional columns that are absent become null.

    Raises:
        DataError: an identifier column is absent, or a column cannot be cast.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            try:
                columns.append(table.column(field.name).cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                found = table.schema.field(field.name).type
                raise DataError(
                    f"{where}: column {field.name!r} is {found}, expected {field.type} ({error})"
                ) from error
        elif field.name.endswith("_id"):
            raise DataError(f"{where}: no column {field.name!r}; there are {table.column_names}")
        else:
            columns.append(pa.nulls(len(table), field.type))
    return pa.table(columns, schema=schema.with_metadata(table.schema.metadata))
