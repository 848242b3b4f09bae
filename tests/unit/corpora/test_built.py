from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from raysem import storage
from raysem.corpora.built import (
    ClipsTableOptions,
    HiddenLabels,
    clips_table_files,
    read_captions_table,
    read_clips_table,
    read_hidden_labels,
    write_hidden_labels,
)
from raysem.corpora.packing import pack
from raysem.corpora.registry import build_corpus, read_corpus
from raysem.corpora.rows import ClipRow, caption_id, clips_table
from raysem.corpora.shards import write_shards
from raysem.errors import DataError

ROWS = [
    ClipRow("c/1", "made", "", content=b"RIFF", path="1.wav", captions=("A dog barks.",), labels=("Bark",), fold=2),
    ClipRow("c/2", "made", "", path="/sounds/2.wav", start_seconds=1.5, duration_seconds=2.0, split="test"),
    ClipRow("c/3", "other", "", path="/sounds/3.wav", labels=("Rain", "Wind")),
]


def hidden_labels(**labels: list[str]) -> HiddenLabels:
    clips = pa.table({"clip_id": [f"c/{key[1:]}" for key in labels], "labels": list(labels.values())})
    return HiddenLabels(clips, {caption_id("A dog barks."): ("Bark", "Dog")})


@pytest.fixture
def root(tmp_path: Path) -> str:
    folder = str(tmp_path / "built")
    write_shards([clips_table(ROWS)], f"{folder}/clips", rows_per_shard=2)
    return folder


def test_a_table_is_read_as_it_was_written(root: str):
    clips, captions, rejects = read_corpus("clips_table", root)
    assert clips.equals(clips_table(ROWS))
    assert captions["text"].to_pylist() == ["A dog barks."]
    assert len(rejects) == 0
    assert [row.place.rsplit("/", 1)[1] for row in read_clips_table(root)] == [
        "shard_00000.parquet row 0",
        "shard_00000.parquet row 1",
        "shard_00001.parquet row 0",
    ]


def test_the_folder_of_the_shards_itself_and_a_part_are_roots_too(root: str, tmp_path: Path):
    assert [row.clip_id for row in read_clips_table(f"{root}/clips")] == ["c/1", "c/2", "c/3"]
    part = ClipsTableOptions(part="built")
    assert [row.clip_id for row in read_clips_table(str(tmp_path), part)] == ["c/1", "c/2", "c/3"]


def test_a_folder_that_is_no_table_and_a_damaged_shard_are_named(root: str, tmp_path: Path):
    with pytest.raises(DataError, match=r"no manifest\.json; .* there must be clips/ with shards"):
        list(read_clips_table(str(tmp_path)))
    with pytest.raises(DataError, match="wild: no manifest"):
        list(read_clips_table(root, ClipsTableOptions(part="wild")))
    with pytest.raises(DataError, match="no such file; at this root there must be captions"):
        list(read_captions_table(root))
    Path(root, "clips/shard_00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"shard_00001\.parquet: not a readable Parquet file"):
        list(read_clips_table(root))


def test_hidden_labels_are_in_no_clip_and_come_back_for_those_that_have_them(root: str):
    write_hidden_labels(root, hidden_labels(c2=["Siren"], c3=[], c9=["Owl"]))
    assert [row.labels for row in read_clips_table(root)] == [("Bark",), (), ("Rain", "Wind")]
    hidden = read_hidden_labels(root)
    assert hidden.of_clips(clips_table(ROWS)).to_pylist() == [
        {"clip_id": "c/1", "labels": ["Bark"]},  # none hidden: what its table shows
        {"clip_id": "c/2", "labels": ["Siren"]},
        {"clip_id": "c/3", "labels": []},
    ]
    assert hidden.of_clips(clips_table([])).num_rows == 0
    assert hidden.captions == {caption_id("a dog barks"): ("Bark", "Dog")}


def test_hidden_labels_of_captions_follow_the_ids_of_the_table_beside_them(root: str):
    texts = pa.table({"caption_id": ["n1"], "text": ["Rain falls"], "source": ["x"]})
    storage.write_table(f"{root}/captions.parquet", texts)
    labels = pa.table({"caption_id": ["n1"], "labels": [["Rain"]]})
    storage.write_table(f"{root}/hidden_caption_labels.parquet", labels)
    assert read_hidden_labels(root).captions == {caption_id("rain falls."): ("Rain",)}


def test_without_hidden_labels_there_are_those_that_the_table_shows(root: str):
    hidden = read_hidden_labels(root)
    assert hidden.of_clips(clips_table(ROWS))["labels"].to_pylist() == [["Bark"], [], ["Rain", "Wind"]]
    assert not hidden.captions
    write_hidden_labels(root, hidden_labels(c2=["Siren"]))
    write_hidden_labels(root, hidden)
    assert not storage.exists(f"{root}/hidden_labels.parquet")


def test_building_and_packing_again_keep_hidden_labels_hidden(root: str, tmp_path: Path, write_audio):
    sounds = [str(write_audio(tmp_path / f"{index}.wav")) for index in range(2)]
    table = clips_table([ClipRow(f"c/{index}", "made", "", path=path) for index, path in enumerate(sounds)])
    write_shards([table], f"{root}/clips")
    write_hidden_labels(root, hidden_labels(c0=["Siren"]))
    built = build_corpus("clips_table", root, str(tmp_path / "again"))["output"]
    packed = pack(built, str(tmp_path / "packed"))["output"]
    for folder in (built, packed):
        assert all(row.labels == () for row in read_clips_table(folder))
        assert read_hidden_labels(folder).clips.to_pylist() == [{"clip_id": "c/0", "labels": ["Siren"]}]


def test_built_captions_are_read_again(tmp_path: Path, write_lines):
    write_lines(tmp_path / "t.csv", ["caption", "A dog barks", "Rain"])
    built = build_corpus("captions", str(tmp_path), str(tmp_path / "out"))["output"]
    _, captions, _ = read_corpus("captions_table", built)
    assert captions.equals(storage.read_table(f"{built}/captions.parquet"))


def test_a_digest_follows_the_manifest_the_shards_and_what_is_hidden(root: str):
    write_hidden_labels(root, hidden_labels(c2=["Siren"]))
    by_content, by_size = clips_table_files(root, ClipsTableOptions())
    assert [Path(file).name for file in by_content] == [
        "manifest.json",
        "hidden_labels.parquet",
        "hidden_caption_labels.parquet",
    ]
    assert [Path(file).name for file in by_size] == ["shard_00000.parquet", "shard_00001.parquet"]
