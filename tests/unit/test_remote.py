"""What is a store, how it is reached, and files that are read over another handle. Faults: test_storage_faults.py."""

from __future__ import annotations

import io

import pytest

from raysem import storage
from raysem.errors import DataError, StorageError
from raysem.remote import HandleReader, asked, filesystem, is_remote, open_remote


@pytest.mark.parametrize(
    ("location", "expected"),
    [("s3://b/x", True), ("gs://b/x", True), ("/x", False), ("x", False), ("file:///x", False), ("memory://x", True)],
)
def test_a_location_with_a_scheme_is_remote(location: str, expected: bool):
    assert is_remote(location) is expected


def test_a_scheme_that_is_unknown_or_not_installed_is_one_line():
    with pytest.raises(DataError, match="foo://x: no filesystem for this scheme"):
        storage.exists("foo://x")
    with pytest.raises(DataError, match="gs://x"):
        storage.exists("gs://x")


def test_a_store_that_refuses_is_a_users_error_and_an_os_error(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no credentials\nand more")

    fs, _ = filesystem("memory://x")
    monkeypatch.setattr(type(fs), "info", refuse)
    with pytest.raises(
        StorageError, match=r"memory://x: cannot be reached or used \(RuntimeError: no credentials"
    ) as e:
        storage.exists("memory://x")
    assert isinstance(e.value, OSError)
    assert isinstance(e.value, DataError)
    assert "\n" not in str(e.value)


def test_what_is_not_there_and_the_errors_of_a_disk_come_as_they_are():
    def absent() -> None:
        raise FileNotFoundError("x")

    def broken() -> None:
        raise OSError(5, "Input/output error")

    for location in ("memory://x", "/x"):
        with pytest.raises(FileNotFoundError):
            asked(location, absent)
    with pytest.raises(OSError, match="Input/output error") as caught:
        asked("/x", broken)
    assert not isinstance(caught.value, StorageError)


class Shouting(HandleReader):
    def read(self, size: int = -1) -> bytes:
        return self._handle.read(size).upper()


def test_a_reader_over_a_handle_is_a_file_whose_bytes_are_what_its_read_gives():
    reader = io.BufferedReader(Shouting(io.BytesIO(b"one\ntwo\nthree")), buffer_size=4)  # by `readinto`
    assert reader.seekable()
    assert list(reader) == [b"ONE\n", b"TWO\n", b"THREE"]
    assert reader.seek(-5, io.SEEK_END) == 8
    assert reader.tell() == 8
    assert reader.read() == b"THREE"
    assert reader.read() == b""


def test_a_file_of_a_store_says_its_size_and_reads_no_further_than_its_end():
    storage.write_bytes("memory://remote/x", b"0123456789")
    with open_remote("memory://remote/x", 4) as handle:
        assert handle.size_bytes == 10  # type: ignore[attr-defined]
        assert handle.seek(8) == 8
        assert handle.read(5) == b"89"
        assert handle.seek(2) == 2
        assert handle.read(3) + handle.read() == b"23456789"
        assert handle.read(1) == b""
