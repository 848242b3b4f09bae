from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listening_tables import CLASSES, TAGS, write_scores, write_tags

from raysem import storage
from raysem.errors import DataError
from raysem.listening.predictions import read_predictions


def names(location: str, clip_id: str, num_tags: int = 10) -> list[str]:
    return [tag.name for tag in read_predictions(location).top_tags([clip_id], num_tags)[clip_id]]


def test_the_best_tags_come_first_and_ties_keep_their_order(tmp_path: Path):
    tags = {"a": [("Cat", 0.2), ("Dog", 0.9), ("Rain", 0.5), ("Wind", 0.5)], "b": []}
    location = write_tags(tmp_path / "tags.parquet", tags)
    assert names(location, "a", 3) == ["Dog", "Rain", "Wind"]
    assert names(location, "a") == ["Dog", "Rain", "Wind", "Cat"]
    assert names(location, "b") == []


def test_scores_and_tags_say_the_same(tmp_path: Path):
    """The twin reads the whole table at once."""
    clip_ids = [f"c{number}" for number in range(17)]
    location = write_scores(tmp_path / "scores.parquet", clip_ids, seed=3)
    rows = {row["clip_id"]: row["scores"] for row in pq.read_table(location).to_pylist()}
    as_tags = {clip_id: list(zip(CLASSES, scores, strict=True)) for clip_id, scores in rows.items()}
    named = write_tags(tmp_path / "tags.parquet", as_tags)
    wanted = ["c16", "c3", "c9"]
    found = read_predictions(location).top_tags(wanted, 4)
    assert found == read_predictions(named).top_tags(wanted, 4)
    for clip_id in wanted:
        best = sorted(zip(rows[clip_id], CLASSES, strict=True), reverse=True)[:4]
        assert [tag.name for tag in found[clip_id]] == [name for _, name in best]


def test_a_folder_of_predictions_is_one_table(tmp_path: Path):
    write_scores(tmp_path / "all" / "0.parquet", ["a", "b"], seed=1)
    write_tags(tmp_path / "all" / "1.parquet", {"c": [("Dog", 1.0)]})
    predictions = read_predictions(str(tmp_path / "all"))
    assert set(predictions.places) == {"a", "b", "c"}
    assert {len(tags) for tags in predictions.top_tags(["a", "c"], 5).values()} == {5, 1}


def test_no_score_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    location = write_scores(tmp_path / "scores.parquet", ["a", "b"], seed=1)
    read: list[str] = []
    iterate = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, *, columns: list[str], **how: object):
        read.extend(columns)
        return iterate(self, columns=columns, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    predictions = read_predictions(location)
    assert read == ["clip_id"]
    predictions.top_tags(["a"], 1)
    assert "scores" in read


def refused(table: pa.Table, tmp_path: Path, message: str, metadata: dict[str, str] | None = None) -> None:
    location = str(tmp_path / "wrong.parquet")
    storage.write_table(location, table.replace_schema_metadata(metadata))
    with pytest.raises(DataError, match="^" + re.escape(location) + ".*" + message) as caught:
        read_predictions(location).top_tags(["a"], 3)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_prediction_is_refused_by_name(tmp_path: Path):
    ids = pa.array(["a"])
    classes = {"classes": json.dumps(["Dog", "Cat"])}
    two = pa.FixedSizeListArray.from_arrays(pa.array([0.5, 0.1], pa.float32()), 2)
    refused(pa.table({"tags": ids}), tmp_path, "no column 'clip_id'")
    refused(pa.table({"clip_id": ids}), tmp_path, "none of the columns 'tags', 'scores', 'embedding'")
    refused(pa.table({"clip_id": ids, "scores": two}), tmp_path, "no JSON list of names under the key 'classes'")
    refused(pa.table({"clip_id": ids, "scores": two}), tmp_path, "no JSON list", {"classes": '{"Dog": 1}'})
    three = {"classes": json.dumps(["Dog", "Cat", "Rain"])}
    refused(pa.table({"clip_id": ids, "embedding": two}), tmp_path, "'embedding' holds 2 numbers for 3 classes", three)
    bad = pa.FixedSizeListArray.from_arrays(pa.array([0.5, float("nan")], pa.float32()), 2)
    refused(pa.table({"clip_id": ids, "scores": bad}), tmp_path, "the score of 'Cat' is nan", classes)
    refused(pa.table({"clip_id": ids, "tags": pa.array([["Dog"]])}), tmp_path, "'tags' is no list<struct<name")
    refused(pa.table({"clip_id": ids, "tags": pa.array([None], TAGS)}), tmp_path, "'tags' is no list<struct<name")
    nameless = pa.array([[{"name": " ", "score": 0.5}]], TAGS)
    refused(pa.table({"clip_id": ids, "tags": nameless}), tmp_path, "a tag's name is ' '")
    refused(pa.table({"clip_id": pa.array(["a", None])}), tmp_path, "row 1: clip_id is None")
    refused(pa.table({"clip_id": pa.array(["b", "a", "a"])}), tmp_path, "row 2: clip 'a' also stands in .* row 1")


def test_a_place_without_predictions_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nothing: no Parquet file there"):
        read_predictions(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"gone\.parquet: no such file"):
        read_predictions(str(tmp_path / "gone.parquet"))
