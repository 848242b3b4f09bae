"""What is no clip's fault: a store that refuses, is lost or fails in the middle of a read, and a disk likewise."""

from __future__ import annotations

import errno
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.spec import AbstractBufferedFile

from raysem import remote
from raysem.audio import sources
from raysem.audio.decode import decode
from raysem.audio.load import AudioSettings, load_clip
from raysem.audio.sources import FETCH_WHOLE_BYTES, read_clip_file
from raysem.errors import ClipError, StorageError


@dataclass
class Store:
    """Files in memory, and the errors that opening and reading still have to raise, the first one first."""

    files: dict[str, bytes] = field(default_factory=dict)
    on_open: list[Exception] = field(default_factory=list)
    on_read: list[Exception] = field(default_factory=list)
    fails_from_byte: int = 0
    opened: int = 0
    bytes_read: int = 0


STORE = Store()


class TroubledFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        if end > STORE.fails_from_byte and STORE.on_read:
            raise STORE.on_read.pop(0)
        STORE.bytes_read += end - start
        return STORE.files[self.path][start:end]


class TroubledFileSystem(fsspec.AbstractFileSystem):
    protocol = "troubled"

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if path not in STORE.files:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(STORE.files[path]), "type": "file"}

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> TroubledFile:
        STORE.opened += 1
        if STORE.on_open:
            raise STORE.on_open.pop(0)
        return TroubledFile(self, path, mode, block_size, cache_type="readahead")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """`troubled://`, empty and without trouble; no pause before another try, as nothing is held that it would free."""
    fsspec.register_implementation("troubled", TroubledFileSystem, clobber=True)
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(remote, "gc", SimpleNamespace(collect=lambda: 0))
    STORE.__init__()  # type: ignore[misc]
    return STORE


def outcome(location: str) -> str:
    with pytest.raises(ClipError) as caught:
        decode(location)
    return caught.value.outcome


def lost() -> ConnectionError:
    return ConnectionError("reset by peer\nand what the driver adds")


@pytest.mark.usefixtures("store")
def test_only_where_nothing_can_be_is_a_clip_missing(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"x")
    absent = [tmp_path / "absent.wav", tmp_path, tmp_path / "a.wav" / "b.wav", tmp_path / ("a" * 300), "/dev/zero"]
    for location in (*map(str, absent), "a\0b.wav", "~nobody-of-this-name/a.wav", "troubled://absent.wav"):
        assert outcome(location) == "missing", location


def test_what_waiting_does_not_mend_is_tried_once(store: Store, make_clip: Callable[..., bytes]):
    store.files["a.wav"] = make_clip("wav16.wav")
    store.on_open = [PermissionError("Access Denied")]
    line = r"^troubled://a\.wav: cannot be reached or used \(PermissionError: Access Denied\)$"
    with pytest.raises(StorageError, match=line):
        decode("troubled://a.wav")
    assert store.opened == 1
    with pytest.raises(StorageError, match=r"^nosuchscheme://bucket/a\.wav: no filesystem for this scheme"):
        decode("nosuchscheme://bucket/a.wav")


@pytest.mark.parametrize("error", [lost(), TimeoutError("no answer"), RuntimeError("of a driver of its own")])
def test_a_store_that_comes_back_gives_the_clip(store: Store, error: Exception, make_clip: Callable[..., bytes]):
    store.files["a.wav"] = make_clip("wav16.wav")
    expected_CT = decode(make_clip("wav16.wav")).samples_CT
    store.on_open = [error, error]
    np.testing.assert_array_equal(decode("troubled://a.wav").samples_CT, expected_CT)
    assert store.opened == 3
    store.on_open, store.on_read = [error], [error]
    np.testing.assert_array_equal(decode("troubled://a.wav").samples_CT, expected_CT)


def test_a_store_that_stays_away_is_one_line_and_no_outcome_of_the_clip(store: Store, make_clip: Callable[..., bytes]):
    store.files["a.wav"] = make_clip("wav16.wav")
    line = r"^troubled://a\.wav: cannot be reached or used \(ConnectionError: reset by peer\), tried 3 times$"
    for where in ("on_open", "on_read"):
        setattr(store, where, [lost() for _ in range(20)])
        with pytest.raises(StorageError, match=line) as caught:
            load_clip(None, "troubled://a.wav", settings=AudioSettings())
        rebuilt = pickle.loads(pickle.dumps(caught.value))
        assert (type(rebuilt), str(rebuilt)) == (StorageError, str(caught.value))
        setattr(store, where, [])
    assert store.opened == 4  # a read is tried again in its place


@pytest.mark.parametrize("start", [None, 60.0])
def test_a_large_file_that_breaks_off_is_read_on(store: Store, start: float | None, make_clip: Callable[..., bytes]):
    content = make_clip("wav16.wav", 110.0)
    assert len(content) > FETCH_WHOLE_BYTES
    store.files["a.wav"] = content
    store.fails_from_byte, store.on_read = len(content) // 2, [lost()]
    found = decode("troubled://a.wav", start_seconds=start, duration_seconds=start and 1.0)
    expected = decode(content, start_seconds=start, duration_seconds=start and 1.0)
    np.testing.assert_array_equal(found.samples_CT, expected.samples_CT)
    assert (store.opened, store.on_read) == (1, [])
    if start is not None:
        assert store.bytes_read < len(content)  # by blocks: a second is not the whole file
    store.on_read = [lost() for _ in range(20)]
    with pytest.raises(StorageError, match=r"reset by peer\), tried 3 times$"):
        decode("troubled://a.wav")
    assert len(store.on_read) == 17  # after the last error nothing more is read


@pytest.mark.parametrize(
    "name", ["wav16.wav", "flac.flac", "vorbis.ogg", "mp3.mp3", "opus.ogg", "aac.m4a", "opus.webm", "adts.aac"]
)
def test_no_decoder_takes_a_lost_connection_for_a_broken_clip(
    store: Store, name: str, make_clip: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "FETCH_WHOLE_BYTES", 10)
    monkeypatch.setattr(sources, "REMOTE_BLOCK_BYTES", 4096)
    store.files["a"] = content = make_clip(name, 5.0)
    expected_CT = decode(content).samples_CT
    for share in (0.0, 0.3, 0.6, 0.95):
        store.fails_from_byte, store.on_read = int(share * len(content)), [lost()]
        np.testing.assert_array_equal(decode("troubled://a").samples_CT, expected_CT)
        assert store.on_read == []
        store.on_read = [lost() for _ in range(20)]
        with pytest.raises(StorageError, match="tried 3 times"):
            decode("troubled://a")


def test_a_file_that_goes_away_meanwhile_is_missing(store: Store, make_clip: Callable[..., bytes]):
    store.files["a.wav"] = make_clip("wav16.wav")
    store.on_read = [FileNotFoundError("a.wav")]
    assert outcome("troubled://a.wav") == "missing"


def test_an_empty_remote_file_is_empty(store: Store):
    store.files["a.wav"] = b""
    assert outcome("troubled://a.wav") == "empty"


@pytest.mark.skipif(os.name != "posix", reason="needs a file without read permission")
def test_a_local_file_that_may_not_be_read_is_no_outcome_of_the_clip(tmp_path: Path, make_clip: Callable[..., bytes]):
    path = tmp_path / "a.wav"
    path.write_bytes(make_clip("wav16.wav"))
    decode(str(path))
    path.chmod(0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)  # root may read everything, nobody may not
    try:
        with pytest.raises(StorageError, match=r"a\.wav: cannot be reached or used \(PermissionError"):
            decode(str(path))
        with pytest.raises(StorageError, match="PermissionError"):
            read_clip_file(str(path), 100)
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("name", ["wav16.wav", "aac.m4a", "opus.ogg"])
def test_a_local_disk_that_fails_in_the_middle_is_tried_again_and_then_said(
    name: str, audio_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    class FailingDisk(io.FileIO):
        failures = 0
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads > 1 and FailingDisk.failures:
                FailingDisk.failures -= 1
                raise OSError(errno.EIO, "Input/output error")
            return super().read(-1 if size is None else size)

    path = str(audio_files[name])
    expected_CT = decode(path).samples_CT
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(sources, "open", FailingDisk, raising=False)
    FailingDisk.failures = 2
    np.testing.assert_array_equal(decode(path).samples_CT, expected_CT)
    assert FailingDisk.failures == 0
    FailingDisk.failures = 20
    with pytest.raises(StorageError, match=r"Input/output error\), tried 3 times$"):
        decode(path)


def test_the_bytes_of_a_file_are_read_up_to_a_limit(store: Store, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"0123456789")
    store.files["a"] = b"0123456789"
    for location in (str(tmp_path / "a"), "troubled://a"):
        assert read_clip_file(location, 4) == b"0123"
        assert read_clip_file(location, 100) == b"0123456789"
    store.on_read = [lost()]
    assert read_clip_file("troubled://a", 4) == b"0123"
