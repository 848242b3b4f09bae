"""Storage behind s3://, on a server of our own: moto, on the loopback, with made-up credentials."""

from __future__ import annotations

import io
import socket
import time

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from raysem import locks, storage
from raysem.audio.load import AudioSettings, load_clip
from raysem.corpora.shards import read_manifest, write_shards
from raysem.errors import ClipError, DataError, StorageError, UserError
from raysem.ledger import DoneRecord, Ledger
from raysem.locks import read_lock, run_lock
from raysem.remote import filesystem
from raysem.stages import Stage, run_stages
from raysem.tables import CLIPS, conform


def wav_bytes(seconds: float = 0.5, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_files_are_written_listed_read_and_deleted(bucket: str):
    root = f"{bucket}/run"
    assert not storage.exists(root)
    assert storage.list_files(root) == []
    storage.write_json(f"{root}/b.json", {"x": 1})
    storage.write_text(f"{root}/a.txt", "é")
    storage.write_text(f"{root}/below/c.txt", "c")
    assert storage.list_files(root) == [f"{root}/a.txt", f"{root}/b.json"]
    assert storage.list_files(root, ".json") == [f"{root}/b.json"]
    assert storage.list_folders(root) == [f"{root}/below"]
    assert storage.is_folder(root)
    assert not storage.is_folder(f"{root}/a.txt")
    assert storage.list_files(f"{root}/a.txt") == []
    assert storage.size_bytes(f"{root}/a.txt") == 2
    assert storage.read_json(f"{root}/b.json") == {"x": 1}
    storage.delete(f"{root}/below")
    assert storage.list_folders(root) == []
    storage.delete(f"{root}/below")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{root}/nothing")


def test_files_are_listed_with_the_second_in_which_they_were_written(bucket: str):
    before = time.time()
    storage.write_json(f"{bucket}/done/a.json", {})
    (found,) = storage.write_times(f"{bucket}/done", ".json").items()
    assert found == (f"{bucket}/done/a.json", pytest.approx(before, abs=60))
    assert storage.write_times(f"{bucket}/nothing") == {}


def test_a_folder_made_by_hand_and_one_of_the_same_name_below(bucket: str):
    fs, _ = filesystem(bucket)
    fs.touch(f"{bucket}/clips/")
    assert storage.list_files(f"{bucket}/clips") == []
    storage.write_text(f"{bucket}/clips/clips/x.txt", "x")
    assert storage.list_folders(f"{bucket}/clips") == [f"{bucket}/clips/clips"]


def test_a_write_that_fails_leaves_what_was_there(bucket: str):
    storage.write_text(f"{bucket}/x", "old")

    def fail() -> None:
        with storage.whole_file(f"{bucket}/x") as handle:
            handle.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert storage.read_bytes(f"{bucket}/x") == b"old"


def test_what_another_process_wrote_is_seen_at_once(bucket: str):
    assert storage.list_files(f"{bucket}/a") == []
    assert not storage.exists(f"{bucket}/a/x.json")
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file(f"{bucket}/a/x.json", b"{}")
    assert storage.exists(f"{bucket}/a/x.json")
    assert storage.list_files(f"{bucket}/a") == [f"{bucket}/a/x.json"]


def test_tables_are_read_whole_and_by_rows(bucket: str):
    location = f"{bucket}/t/x.parquet"
    storage.write_table(location, pa.table({"a": list(range(10))}), row_group_rows=4)
    assert storage.read_table(f"{bucket}/t").num_rows == 10
    assert storage.read_rows(location, 3, 9).to_pydict() == {"a": list(range(3, 9))}
    assert storage.count_rows(location) == 10
    with pytest.raises(DataError, match="no such file"):
        storage.read_table(f"{bucket}/t/y.parquet")


def test_a_clip_is_decoded_from_its_uri(bucket: str):
    storage.write_bytes(f"{bucket}/audio/a.wav", wav_bytes())
    settings = AudioSettings(sample_rate=8000)
    arguments = {"start_seconds": None, "duration_seconds": None, "settings": settings}
    inside = load_clip(wav_bytes(), None, **arguments)
    behind = load_clip(None, f"{bucket}/audio/a.wav", **arguments)
    np.testing.assert_array_equal(behind, inside)
    part = load_clip(None, f"{bucket}/audio/a.wav", start_seconds=0.125, duration_seconds=0.25, settings=settings)
    np.testing.assert_array_equal(part, inside[1000:3000])


def test_clips_that_are_not_there_or_empty_are_outcomes(bucket: str):
    storage.write_bytes(f"{bucket}/audio/empty.wav", b"")
    arguments = {"start_seconds": None, "duration_seconds": None, "settings": AudioSettings(sample_rate=8000)}
    for name, outcome in (("nothing.wav", "missing"), ("empty.wav", "empty")):
        with pytest.raises(ClipError) as error:
            load_clip(None, f"{bucket}/audio/{name}", **arguments)
        assert error.value.outcome == outcome


def test_shards_are_written_and_found_by_their_manifest(bucket: str):
    rows = [{"clip_id": f"c{index}", "audio": {"bytes": wav_bytes(0.1), "path": None}} for index in (3, 1, 2, 0)]
    table = conform(pa.Table.from_pylist(rows), CLIPS, "test")
    written = write_shards([table], f"{bucket}/clips", rows_per_shard=3)
    assert [shard.rows for shard in written.shards] == [3, 1]
    manifest = read_manifest(f"{bucket}/clips")
    assert manifest.shards == written.shards
    ids = [name for file in manifest.files for name in storage.read_table(file)["clip_id"].to_pylist()]
    assert ids == ["c0", "c1", "c2", "c3"]
    shorter = write_shards([table.slice(0, 1)], f"{bucket}/clips", rows_per_shard=3)
    assert len(storage.list_files(f"{bucket}/clips", ".parquet")) == len(shorter.shards) == 1


def test_stages_and_done_records_work_as_on_a_disk(bucket: str):
    calls = []

    def run(folder: str) -> dict:
        calls.append(folder)
        ledger = Ledger(folder)
        ledger.finish(DoneRecord("a", 1, {"kept": 1}), {"shards": pa.table({"x": [1]})})
        return {"pending": ledger.pending(["a", "b"])}

    for _ in range(2):
        results = run_stages([Stage("work", run)], f"{bucket}/run")
    assert len(calls) == 1
    assert results["work"].summary == {"pending": ["b"]}


def test_one_driver_holds_an_output(bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: None)
    output = f"{bucket}/run"
    with run_lock(output):
        assert read_lock(output) is not None
        with pytest.raises(UserError, match="is at work on this output"):
            run_lock(output).__enter__()
    assert read_lock(output) is None
    assert storage.list_files(output) == []


def test_of_two_drivers_that_start_at_once_the_later_writer_holds_the_output(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    output = f"{bucket}/run"
    theirs = {"host": "elsewhere", "pid": 7, "began": 0.0, "beat": locks.time.time(), "token": "theirs"}

    def another_writes(seconds: float) -> None:
        storage.write_json(f"{output}/{locks.LOCK}", theirs)

    monkeypatch.setattr(locks.time, "sleep", another_writes)
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        run_lock(output).__enter__()
    assert storage.read_json(f"{output}/{locks.LOCK}") == theirs


def test_a_store_without_credentials_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(StorageError, match=r"s3://b\d+/x: cannot be reached or used \(NoCredentialsError") as error:
        storage.read_bytes(f"{bucket}/x")
    assert "\n" not in str(error.value)


def test_a_store_that_does_not_answer_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fs = fsspec.filesystem("s3")
    fs.clear_instance_cache()
    monkeypatch.setattr(type(fs), "retries", 1)
    with pytest.raises(StorageError, match="cannot be reached or used") as error:
        storage.write_text(f"{bucket}/x", "x")
    assert "\n" not in str(error.value)


def test_a_bucket_that_is_not_there_is_one_line(bucket: str):
    assert not storage.exists("s3://no-such-bucket-of-ours/x")
    with pytest.raises(StorageError, match="cannot be written") as error:
        storage.write_text("s3://no-such-bucket-of-ours/x", "x")
    assert "\n" not in str(error.value)
