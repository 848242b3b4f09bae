from __future__ import annotations

import gzip
import unicodedata
from pathlib import Path

import fsspec
import pytest

from raysem.corpora.sources import AudioFiles, inside, read_csv, require_folder, walk_files
from raysem.errors import DataError


def test_a_csv_is_read_with_quotes_line_breaks_and_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes('﻿name, text\r\na, "x, ""y""\nz"\r\n\r\nb,c\r\n'.encode())
    records = list(read_csv(str(path), ["name", "text"]))
    assert [record.values for record in records] == [{"name": "a", "text": 'x, "y"\nz'}, {"name": "b", "text": "c"}]
    assert records[1].place == f"{path} line 5"


def test_gzip_and_tabs_are_seen_by_themselves(tmp_path: Path):
    path = tmp_path / "t.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n1\t2\n", mtime=0))
    assert [record.values for record in read_csv(str(path))] == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, expected a header with file"),
        (b"a,b\n1,2\n", "no column 'file'; there are a, b"),
        (b"file,file\n1,2\n", "column 'file' stands twice"),
        (b"file,b\n1\n", "line 2: 1 fields, expected 2"),
        (b"file,b\n1,2,3\n", "line 2: 3 fields, expected 2"),
        (b'file,b\n1,"2\n', "line 2: not valid csv"),
        (b"file\n\xff\xfe\n", "not UTF-8 text"),
        (gzip.compress(b"file\n" + b"x\n" * 9999, mtime=0)[:-20], "cannot be read"),
        (b"\x1f\x8bxxxxxxxxxxxxxxxx", "cannot be read"),
    ],
)
def test_a_broken_csv_is_one_line_with_file_and_place(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_csv(str(path), ["file"]))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_csv_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"t\.csv: no such file"):
        list(read_csv(str(tmp_path / "t.csv")))


@pytest.mark.parametrize("path", ["a/b.wav", "./a/b.wav", "a//b.wav", "a/x/../b.wav", "/data/root/a/b.wav", "a\\b.wav"])
def test_a_path_below_the_root_becomes_relative(path: str):
    assert inside("/data/root", path, "t line 2") == "a/b.wav"


@pytest.mark.parametrize(
    "path",
    [
        "../b.wav",
        "a/../../b.wav",
        "/etc/passwd",
        "..",
        "..\\b.wav",
        "C:\\b.wav",
        "s3://other/b.wav",
        "file:///etc/x",
        "",
        "a\0b",
    ],
)
def test_a_path_outside_the_root_is_refused_with_its_place(path: str):
    with pytest.raises(DataError, match=r"^t line 2: "):
        inside("/data/root", path, "t line 2")


def test_audio_is_found_in_another_format_and_in_decomposed_unicode(tmp_path: Path):
    (tmp_path / "a").mkdir()
    for name in ["a/one.flac", "a/caf" + unicodedata.normalize("NFD", "é") + ".wav", "a/notes.txt", ".hidden.wav"]:
        (tmp_path / name).write_bytes(b"x")
    files = AudioFiles(str(tmp_path))
    assert len(files) == 2
    assert files.find("a/one.wav", "p") == str(tmp_path / "a/one.flac")
    assert files.find("a/one", "p") == str(tmp_path / "a/one.flac")
    assert files.find("one.wav", "p") is None
    assert files.find_stem("one", "p") == str(tmp_path / "a/one.flac")
    assert files.find("a/café.wav", "p") is not None


def test_two_formats_of_one_name_are_chosen_by_the_exact_name_or_refused(tmp_path: Path):
    for name in ["x.flac", "x.wav", "with.dots.wav"]:
        (tmp_path / name).write_bytes(b"x")
    files = AudioFiles(str(tmp_path))
    assert files.find("x.wav", "p") == str(tmp_path / "x.wav")
    assert files.find("with.dots", "p") == str(tmp_path / "with.dots.wav")
    with pytest.raises(DataError, match=r"^p: 'x.mp3' could be any of \['x.flac', 'x.wav'\]"):
        files.find("x.mp3", "p")


def test_a_link_back_up_does_not_walk_for_ever(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.wav").write_bytes(b"x")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert list(walk_files(str(tmp_path))) == ["a/x.wav"]


def test_a_root_that_is_no_folder_says_what_must_be_there(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder; at this root there must be y"):
        require_folder(str(tmp_path / "x"), "y")
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(DataError, match="is a file, expected a folder"):
        require_folder(str(tmp_path / "x"), "y")


def test_an_object_store_is_walked_like_a_disk():
    fs = fsspec.filesystem("memory")
    fs.pipe("/raysem-sources/a/x.wav", b"x")
    fs.pipe("/raysem-sources/y.ogg", b"x")
    try:
        assert sorted(walk_files("memory://raysem-sources")) == ["a/x.wav", "y.ogg"]
        assert AudioFiles("memory://raysem-sources").find("a/x.flac", "p") == "memory://raysem-sources/a/x.wav"
    finally:
        fs.rm("/raysem-sources", recursive=True)
