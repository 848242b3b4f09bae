from __future__ import annotations

import pyarrow as pa
import pytest

from raysem.errors import DataError
from raysem.tables import CAPTIONS, CLIPS, IMPROVEMENT_SET, REJECT_OUTCOMES, SCORED_PAIRS, conform, embeddings_schema


def test_conform_orders_casts_and_fills_columns():
    table = pa.table({"text": pa.array(["a"], pa.large_string()), "caption_id": ["1"], "more": [5]})
    result = conform(table, CAPTIONS, "here")
    assert result.schema == CAPTIONS
    assert result.to_pylist() == [{"caption_id": "1", "text": "a", "source": None}]


def test_conform_keeps_metadata():
    table = pa.table({"caption_id": ["1"]}).replace_schema_metadata({"model": "x"})
    assert conform(table, CAPTIONS, "here").schema.metadata == {b"model": b"x"}


def test_conform_of_an_empty_table_is_an_empty_table():
    assert conform(CLIPS.empty_table(), CLIPS, "here").num_rows == 0


def test_conform_names_an_absent_identifier():
    with pytest.raises(DataError, match=r"x\.parquet: no column 'caption_id'; there are \['text'\]"):
        conform(pa.table({"text": ["a"]}), CAPTIONS, "x.parquet")


def test_conform_names_a_column_of_the_wrong_type():
    table = pa.table({"clip_id": ["a"], "fold": ["one"]})
    with pytest.raises(DataError, match=r"x\.parquet: column 'fold' is string, expected int32"):
        conform(table, CLIPS, "x.parquet")


def test_conform_takes_audio_as_hugging_face_writes_it_whatever_the_order_of_its_fields():
    audio = pa.array([{"path": "a.wav", "bytes": b"1"}], pa.struct([("path", pa.string()), ("bytes", pa.binary())]))
    result = conform(pa.table({"clip_id": ["a"], "audio": audio}), CLIPS, "here")
    assert result["audio"].to_pylist() == [{"bytes": b"1", "path": "a.wav"}]


def test_an_embeddings_schema_has_the_width_and_the_metadata():
    schema = embeddings_schema("clip_id", 3, {"model": "m"})
    assert schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert schema.metadata == {b"model": b"m"}


def test_every_table_names_its_clips_or_captions_alike():
    assert {schema.field(0).name for schema in (CLIPS, SCORED_PAIRS, IMPROVEMENT_SET)} == {"clip_id"}
    assert len(set(REJECT_OUTCOMES)) == len(REJECT_OUTCOMES)
    assert "kept" not in REJECT_OUTCOMES
