from __future__ import annotations

from pathlib import Path

import pytest

from raysem.corpora.folder import FolderOptions, read_folder
from raysem.corpora.registry import read_corpus
from raysem.errors import DataError


@pytest.fixture
def root(tmp_path: Path, write_audio, write_lines) -> Path:
    for name in ["dog/a.wav", "dog/b.flac", "rain/c.ogg"]:
        write_audio(tmp_path / name)
    write_lines(
        tmp_path / "clips.csv",
        [
            "file,says,tags,fold,part,start,seconds",
            'dog/a.wav,"A dog, barking",dog;animal,1,train,0,0.05',
            "dog/b.wav,,dog,2,train,0.05,0.05",
            "rain/c.wav,Rain,,2,test,0,0.1",
        ],
    )
    return tmp_path


def test_every_column_that_is_named_is_read(root: Path):
    options = FolderOptions(
        csv="clips.csv",
        source="mine",
        caption_column="says",
        label_column="tags",
        label_separator=";",
        fold_column="fold",
        split_column="part",
        start_column="start",
        duration_column="seconds",
    )
    first, second, third = read_folder(str(root), options)
    assert (first.clip_id, first.path) == ("mine/dog/a_0.000", str(root / "dog/a.wav"))
    assert (first.captions, first.labels) == (("A dog, barking",), ("dog", "animal"))
    assert (first.fold, first.split, first.start_seconds, first.duration_seconds) == (1, "train", 0.0, 0.05)
    assert (second.clip_id, second.path, second.captions) == ("mine/dog/b_0.050", str(root / "dog/b.flac"), ())
    assert third.labels == ()


def test_without_a_csv_every_audio_file_is_a_clip(root: Path):
    clips = list(read_folder(str(root), FolderOptions(labels_from_folders=True)))
    assert [clip.clip_id for clip in clips] == ["folder/dog/a.wav", "folder/dog/b.flac", "folder/rain/c.ogg"]
    assert [clip.labels for clip in clips] == [("dog",), ("dog",), ("rain",)]


def test_paths_may_start_from_a_folder_below_the_root(root: Path, write_lines):
    write_lines(root / "dogs.csv", ["file", "a.wav"])
    (clip,) = read_folder(str(root), FolderOptions(csv="dogs.csv", audio_folder="dog"))
    assert (clip.clip_id, clip.path) == ("folder/a", str(root / "dog/a.wav"))


def test_rows_of_one_clip_are_joined_only_when_asked(root: Path, write_lines):
    write_lines(root / "long.csv", ["file,text", "dog/a.wav,one", "rain/c.ogg,rain", "dog/a.wav,two", "dog/a.wav,one"])
    options = {"csv": "long.csv", "caption_column": "text", "group_rows": True}
    clips, captions, _ = read_corpus("folder", str(root), options)
    assert clips["captions"].to_pylist() == [["one", "two"], ["rain"]]
    assert len(captions) == 3
    with pytest.raises(DataError, match=r"long\.csv line 4: clip_id 'folder/dog/a' was already used at .* line 2"):
        read_corpus("folder", str(root), {**options, "group_rows": False})


def test_joined_rows_that_disagree_are_named(root: Path, write_lines):
    write_lines(root / "long.csv", ["file,fold", "dog/a.wav,1", "dog/a.wav,2"])
    options = FolderOptions(csv="long.csv", fold_column="fold", group_rows=True)
    with pytest.raises(DataError, match=r"line 3: clip_id 'folder/dog/a' has fold 2 here and 1 at .* line 2"):
        list(read_folder(str(root), options))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../x.wav,1", "line 2: '../x.wav' points outside"),
        ("/etc/passwd,1", "line 2: '/etc/passwd' points outside"),
        ("dog/z.wav,1", "line 2: no file 'dog/z.wav' below"),
        ("dog/a.wav,one", "line 2: fold is 'one', expected a whole number"),
        (",1", "line 2: column 'file' is empty"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(root: Path, write_lines, row: str, message: str):
    write_lines(root / "bad.csv", ["file,fold", row])
    with pytest.raises(DataError, match=message) as caught:
        read_corpus("folder", str(root), {"csv": "bad.csv", "fold_column": "fold"})
    assert str(root / "bad.csv") in str(caught.value)


def test_a_csv_or_a_column_that_is_not_there_is_named(root: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"none of other\.csv is there"):
        list(read_folder(str(root), FolderOptions(csv="other.csv")))
    with pytest.raises(DataError, match="no column 'path'; there are file, says"):
        list(read_folder(str(root), FolderOptions(csv="clips.csv", path_column="path")))
    with pytest.raises(DataError, match="no such folder"):
        list(read_folder(str(root / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no audio file below it"):
        list(read_folder(str(tmp_path / "empty")))


def test_the_wild_pool_is_read_by_its_manifest(shared_data: Path):
    options = {"csv": "manifest.csv", "path_column": "file", "caption_column": "hint", "source": "wild"}
    clips, _, rejects = read_corpus("folder", str(shared_data / "wild"), options)
    assert (len(clips), len(rejects)) == (1071, 0)
    assert "wild/open/blanket/blanket_0001" in clips["clip_id"].to_pylist()
