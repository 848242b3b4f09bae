from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest

from raysem.corpora.registry import read_corpus
from raysem.corpora.webdataset import WebDatasetOptions, read_webdataset
from raysem.errors import DataError


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members:
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return path


SIDECAR = json.dumps({"text": ["A dog barks", "Bark"], "tag": ["dog"], "original_data": {"title": "x"}}).encode()


@pytest.fixture
def wav(tmp_path: Path, write_audio) -> bytes:
    return write_audio(tmp_path / "source/a.wav").read_bytes()


def test_the_members_of_one_name_are_one_clip(tmp_path: Path, wav: bytes):
    write_tar(
        tmp_path / "shards/0.tar",
        [
            ("./a.b.wav", wav),
            ("./a.b.json", SIDECAR),
            ("deep/c.txt", b"Rain\n"),
            ("deep/c.flac", wav),
            ("deep/c.cls", b"rain"),
            ("deep/c.npy", b"ignored"),
            ("deep/._c.wav", b"resource fork"),
        ],
    )
    write_tar(tmp_path / "shards/1.tar.gz", [("a.b.wav", wav)])
    first, second, third = read_webdataset(str(tmp_path / "shards"))
    assert (first.clip_id, first.content, first.path) == ("webdataset/0/a.b", wav, "a.b.wav")
    assert (first.captions, first.labels) == (("A dog barks", "Bark"), ("dog",))
    assert (second.clip_id, second.captions, second.labels) == ("webdataset/0/deep/c", ("Rain",), ("rain",))
    assert third.clip_id == "webdataset/1/a.b"


def test_a_pickled_member_is_never_opened(tmp_path: Path, wav: bytes):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    bomb = pickle.dumps(Trap())
    write_tar(tmp_path / "0.tar", [("a.wav", wav), ("a.pkl", bomb), ("a.pyd", bomb), ("a.pth", bomb)])
    assert len(list(read_webdataset(str(tmp_path)))) == 1
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["../a.wav", "/etc/a.wav", "x/../../a.wav"])
def test_a_member_outside_the_tar_is_refused(tmp_path: Path, wav: bytes, name: str):
    write_tar(tmp_path / "0.tar", [(name, wav)])
    with pytest.raises(DataError, match=r"0\.tar member .* points outside"):
        list(read_webdataset(str(tmp_path)))


def test_a_link_is_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        information = tarfile.TarInfo("a.wav")
        information.type, information.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(information)
    with pytest.raises(DataError, match=r"member a\.wav: is a link or a device; refused"):
        list(read_webdataset(str(tmp_path)))


def test_an_empty_or_too_large_member_is_a_reject(tmp_path: Path, wav: bytes):
    write_tar(tmp_path / "0.tar", [("a.wav", b""), ("b.wav", wav), ("b.txt", b"x"), ("c.wav", b"x" * 100)])
    clips, _, rejects = read_corpus("webdataset", str(tmp_path), {"max_member_mib": 1e-3})
    assert rejects.select(["clip_id", "outcome"]).to_pylist() == [
        {"clip_id": "webdataset/0/a", "outcome": "empty"},
        {"clip_id": "webdataset/0/b", "outcome": "too_long"},
    ]
    assert clips["clip_id"].to_pylist() == ["webdataset/0/c"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.wav", b"x"), ("b.wav", b"x"), ("a.json", b"{}")], r"member a\.json: no audio member beside it"),
        ([("a.wav", b"x"), ("b.wav", b"x"), ("a.wav", b"x")], r"member a\.wav: clip_id 'webdataset/0/a' was already"),
        ([("a.wav", b"x"), ("a.flac", b"x")], r"member a\.flac: a second audio member of 'a', after a\.wav"),
        ([("a.wav", b"x"), ("a.json", b"{")], r"member a\.json: not valid JSON"),
        ([("a.wav", b"x"), ("a.json", b"[]")], r"member a\.json: expected one JSON object, got list"),
        ([("a.wav", b"x"), ("a.txt", b"\xff")], r"member a\.txt: not valid UTF-8"),
    ],
)
def test_a_wrong_member_is_named(tmp_path: Path, members: list[tuple[str, bytes]], message: str):
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(DataError, match=r"0\.tar " + message):
        read_corpus("webdataset", str(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kept", [700, 2560, 2560 + 200, 2560 + 512 + 100, 2 * 2560, 2 * 2560 + 100])
def test_a_tar_that_breaks_off_is_named_wherever_it_does(tmp_path: Path, wav: bytes, packed: bool, kept: int):
    whole = write_tar(tmp_path / "source/0.tar", [("a.wav", wav), ("b.wav", wav)]).read_bytes()
    name = tmp_path / ("0.tar.gz" if packed else "0.tar")
    name.write_bytes(gzip.compress(whole[:kept]) if packed else whole[:kept])
    with pytest.raises(DataError, match="not a whole tar file, it breaks off after"):
        list(read_webdataset(str(name)))


def test_a_gzip_that_breaks_off_or_a_damaged_header_is_named(tmp_path: Path, wav: bytes):
    whole = write_tar(tmp_path / "source/0.tar", [("a.wav", wav), ("b.wav", wav)]).read_bytes()
    for content in (gzip.compress(whole)[:-200], whole[:2560] + b"damage" + whole[2566:]):
        (tmp_path / "0.tar").write_bytes(content)
        with pytest.raises(DataError, match="not a whole tar file, it breaks off after"):
            list(read_webdataset(str(tmp_path / "0.tar")))


def test_a_tar_of_nothing_has_no_clips(tmp_path: Path):
    write_tar(tmp_path / "0.tar", [])
    assert list(read_webdataset(str(tmp_path))) == []


def test_what_is_no_tar_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no tar file below it"):
        list(read_webdataset(str(tmp_path)))
    with pytest.raises(DataError, match=r"x\.tar: no such file"):
        list(read_webdataset(str(tmp_path / "x.tar")))
    (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"x\.tar: not a whole tar file"):
        list(read_webdataset(str(tmp_path), WebDatasetOptions()))
