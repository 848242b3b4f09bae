from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysem.corpora.parquet import ParquetOptions, read_parquet
from raysem.corpora.registry import build_corpus, read_corpus
from raysem.errors import ConfigError, DataError
from raysem.tables import AUDIO


def write(path: Path, columns: dict[str, pa.Array], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)


@pytest.fixture
def root(tmp_path: Path, write_audio) -> Path:
    content = write_audio(tmp_path / "source/a.wav").read_bytes()
    features = {"label": {"names": ["dog", "rain"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
    write(
        tmp_path / "hub/data/train-00000-of-00001.parquet",
        {
            "audio": pa.array([{"bytes": content, "path": "/home/x/a.wav"}, {"bytes": content, "path": None}], AUDIO),
            "text": pa.array(["A dog barks", None]),
            "more": pa.array([["x", "y"], []]),
            "label": pa.array([0, 1]),
            "key": pa.array([7, 8]),
            "fold": pa.array([1.0, None]),
        },
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    return tmp_path / "hub"


def test_a_hugging_face_file_is_read_with_bytes_class_names_and_split(root: Path):
    options = ParquetOptions(caption_column="text,more", label_column="label", fold_column="fold", source="hub")
    first, second = read_parquet(str(root), options)
    assert first.clip_id == "hub/data/train-00000-of-00001/00000000"
    assert first.content is not None
    assert first.content[:4] == b"RIFF"
    assert (first.path, first.split, first.fold) == ("a.wav", "train", 1)
    assert (first.captions, first.labels) == (("A dog barks", "x", "y"), ("dog",))
    assert (second.captions, second.labels, second.fold, second.path) == ((), ("rain",), None, None)


def test_the_id_may_be_a_column_and_the_root_one_file(root: Path):
    file = root / "data/train-00000-of-00001.parquet"
    assert [clip.clip_id for clip in read_parquet(str(file), ParquetOptions(id_column="key"))] == [
        "parquet/7",
        "parquet/8",
    ]


def test_packed_and_unpacked_rows_build_a_clips_table(root: Path, write_audio, tmp_path: Path):
    write_audio(root / "sounds/b.ogg")
    write(root / "more.parquet", {"audio": pa.array([{"bytes": None, "path": "sounds/b.ogg"}], AUDIO)})
    summary = build_corpus("parquet", str(root), str(tmp_path / "out"))
    assert (summary["clips"], summary["rejects"]) == (3, {})


def test_rows_that_hold_nothing_are_rejects_with_their_reason(root: Path):
    audio = [{"bytes": b"", "path": "x"}, {"bytes": None, "path": None}, {"bytes": None, "path": "no.wav"}]
    write(root / "bad.parquet", {"audio": pa.array(audio, AUDIO)})
    _, _, rejects = read_corpus("parquet", str(root), missing="reject")
    assert rejects["outcome"].to_pylist() == ["empty", "missing", "missing"]


@pytest.mark.parametrize("path", ["../../x.wav", "/etc/passwd", "s3://bucket/x.wav"])
def test_a_path_outside_the_root_is_refused_with_file_and_row(root: Path, path: str):
    write(root / "bad.parquet", {"audio": pa.array([{"bytes": None, "path": path}], AUDIO)})
    with pytest.raises(DataError, match=r"bad\.parquet row 0: "):
        read_corpus("parquet", str(root))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"sound": pa.array([b"x"])}, {}, "no column 'audio'; there are sound"),
        ({"audio": pa.array([1])}, {}, "row 0: column 'audio' is a int, expected struct"),
        (
            {"audio": pa.array([b"x"]), "k": pa.array([None], pa.string())},
            {"id_column": "k"},
            "row 0: column 'k' is empty",
        ),
        ({"audio": pa.array([b"x"]), "f": pa.array([1.5])}, {"fold_column": "f"}, "row 0: f is 1.5, expected a whole"),
        ({"audio": pa.array([b"x"]), "f": pa.array([math.nan])}, {"fold_column": "f"}, "row 0: f is nan, expected a"),
        (
            {"audio": pa.array([b"x"]), "s": pa.array(["x"])},
            {"start_column": "s"},
            "row 0: s is 'x', expected a number",
        ),
        (
            {"audio": pa.array([b"x", b"x"]), "k": pa.array(["1", "1"])},
            {"id_column": "k"},
            "row 1: clip_id 'parquet/1' was already used at .* row 0",
        ),
    ],
)
def test_a_wrong_file_or_row_is_named(tmp_path: Path, columns: dict, options: dict, message: str):
    write(tmp_path / "t.parquet", columns)
    with pytest.raises(DataError, match=r"t\.parquet.*" + message):
        read_corpus("parquet", str(tmp_path), options)


def test_what_is_no_parquet_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no Parquet file below it"):
        list(read_parquet(str(tmp_path)))
    with pytest.raises(DataError, match=r"x\.parquet: no such file"):
        list(read_parquet(str(tmp_path / "x.parquet")))
    (tmp_path / "x.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file"):
        list(read_parquet(str(tmp_path)))


def test_an_option_that_does_not_exist_is_named(root: Path):
    with pytest.raises(
        ConfigError, match=r"corpus parquet: caption_colum: no such key \(did you mean caption_column\?\)"
    ):
        read_corpus("parquet", str(root), {"caption_colum": "text"})
