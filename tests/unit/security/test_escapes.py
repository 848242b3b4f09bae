"""What a table or an archive names lies below its root. What its owner put there by a link is his own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysem.audio.load import load_clip
from raysem.corpora.folder import FolderOptions, read_folder
from raysem.corpora.parquet import read_parquet
from raysem.corpora.webdataset import read_webdataset
from raysem.errors import ClipError, DataError, StorageError
from raysem.remote import filesystem

OUTSIDE = [
    "../other/a.wav",
    "x/../../other/a.wav",
    "/etc/passwd",
    "..\\other\\a.wav",
    "C:\\windows\\a.wav",
    "file:///etc/passwd",
    "s3://other-bucket/a.wav",
    "simplecache::file:///etc/passwd",
    "zip://a.wav::/tmp/a.zip",
    "a.wav\0.txt",
    "..",
    "",
]


@pytest.mark.parametrize("path", [path for path in OUTSIDE if "\0" not in path and path])
def test_a_path_of_a_csv_does_not_leave_the_root(tmp_path: Path, path: str):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.wav").write_bytes(b"secret")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/t.csv").write_text(f'file\n"{path}"\n')
    with pytest.raises(DataError, match=r"t\.csv line 2: .*(outside|not a path below)"):
        list(read_folder(str(tmp_path / "root"), FolderOptions(csv="t.csv")))


@pytest.mark.parametrize("path", [path for path in OUTSIDE if path])
def test_a_path_of_a_parquet_corpus_does_not_leave_the_root(tmp_path: Path, path: str):
    rows = pa.table({"audio": pa.array([{"bytes": None, "path": path}])})
    pq.write_table(rows, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 0: .*(outside|not a path below)"):
        list(read_parquet(str(tmp_path)))


@pytest.mark.parametrize("option", ["csv", "audio_folder"])
def test_an_option_does_not_leave_the_root(tmp_path: Path, option: str):
    with pytest.raises(DataError, match=f"{option}: '../x' points outside"):
        list(read_folder(str(tmp_path), FolderOptions(**{option: "../x"})))


@pytest.mark.parametrize("name", [name for name in OUTSIDE if "\0" not in name and name])
def test_a_member_of_a_tar_does_not_leave_it(tmp_path: Path, name: str):
    information = tarfile.TarInfo(f"{name}.wav")
    information.size = 4
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        archive.addfile(information, io.BytesIO(b"RIFF"))
    if name.startswith("..") and "/" not in name:  # to tar the name of a hidden file, which is passed over
        assert list(read_webdataset(str(tmp_path))) == []
        return
    with pytest.raises(DataError, match=r"0\.tar member .*(outside|not a path below)"):
        list(read_webdataset(str(tmp_path)))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0.tar"]  # nothing is unpacked


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_link_or_a_device_of_a_tar_is_refused(tmp_path: Path, kind: bytes):
    information = tarfile.TarInfo("a.wav")
    information.type, information.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        archive.addfile(information)
    with pytest.raises(DataError, match="is a link or a device; refused"):
        list(read_webdataset(str(tmp_path)))


def test_a_symbolic_link_below_the_root_is_followed_as_its_owner_meant_it(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.wav").write_bytes(b"RIFF")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/audio").symlink_to(tmp_path / "disk")
    (clip,) = read_folder(str(tmp_path / "root"))
    assert clip.path == str(tmp_path / "root/audio/a.wav")


def test_a_file_that_is_no_audio_is_an_outcome_that_shows_nothing_of_it(tmp_path: Path):
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nhush-hush\n")
    for path in (str(tmp_path / "key.pem"), f"file://{tmp_path}/key.pem"):
        with pytest.raises(ClipError, match="undecodable") as caught:
            load_clip(None, path)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    ["zip://a.wav::/tmp/a.zip", "simplecache::s3://b/k", "/data/x::/etc/passwd", "reference:///tmp/spec.json"],
)
def test_no_location_chains_filesystems(location: str):
    with pytest.raises(StorageError, match=r"chains filesystems; refused|no filesystem for this scheme"):
        filesystem(location)


def test_a_pipe_or_a_device_is_no_clip(tmp_path: Path):
    for path in ("/dev/zero", str(tmp_path)):
        with pytest.raises(ClipError, match="missing"):
            load_clip(None, path)
