"""Storage on a store that throttles, resets connections, dawdles and breaks off: the same results as without."""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from faulty_store import FaultyStore

from raysem import locks, remote, storage
from raysem.audio.decode import decode
from raysem.corpora.shards import read_manifest, write_shards
from raysem.errors import ClipError, ConfigError, StorageError, UserError
from raysem.ledger import DoneRecord, Ledger
from raysem.locks import read_lock, run_lock
from raysem.remote import filesystem
from raysem.runs.preflight import check_output, check_roots
from raysem.tables import CLIPS, conform

pytestmark = pytest.mark.fault

KINDS = {"slow_down", "reset", "lost_answer", "truncated", "slow_body"}


@pytest.fixture
def store(store_server: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A store without faults so far; a test sets its `share`. Botocore's pauses are left out, ours are short."""
    store_server.enter(monkeypatch)
    store_server.forget()
    store_server.share, store_server.seed, store_server.refused = 0.0, 0, ()
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    fsspec.filesystem("s3").clear_instance_cache()
    yield store_server
    store_server.share, store_server.refused = 0.0, ()
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def bucket(store: Any, request: pytest.FixtureRequest) -> str:
    """A bucket of this test's own."""
    return store.create_bucket(f"b{zlib.crc32(request.node.name.encode())}")


def bytes_of(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def test_what_is_written_and_read_under_every_kind_of_fault_is_what_was_meant(store: Any, bucket: str):
    store.share = 0.4
    for index in range(30):
        location = f"{bucket}/run/part_{index % 3}/{index:02d}.bin"
        assert not storage.exists(location)
        storage.write_bytes(location, bytes_of(index, 200 + index))
        assert storage.read_bytes(location) == bytes_of(index, 200 + index)
        assert storage.size_bytes(location) == 200 + index
        assert storage.exists(location)
    names = [f"{bucket}/run/part_1/{index:02d}.bin" for index in range(1, 30, 3)]
    assert storage.list_files(f"{bucket}/run/part_1") == names
    assert storage.list_folders(f"{bucket}/run") == [f"{bucket}/run/part_{index}" for index in range(3)]
    for name in names[:5]:
        storage.delete(name)
        assert not storage.exists(name)
    assert storage.list_files(f"{bucket}/run/part_1", ".bin") == names[5:]
    storage.delete(f"{bucket}/run/part_0")
    assert storage.list_folders(f"{bucket}/run") == [f"{bucket}/run/part_1", f"{bucket}/run/part_2"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(names[0])
    assert {kind for kind in KINDS if store.done[kind] >= 3} == KINDS, store.done


def test_blocks_of_a_file_are_what_stands_there_wherever_it_is_sought(
    store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage, "READ_AHEAD_BYTES", 4096)
    content = bytes_of(1, 400_000)
    storage.write_bytes(f"{bucket}/x", content)
    store.share = 0.4
    rng = np.random.default_rng(0)
    with storage.open_read(f"{bucket}/x") as handle:
        for begin, size in rng.integers(0, [len(content), 50_000], size=(60, 2)).tolist():
            handle.seek(begin)
            assert handle.read(size) == content[begin : begin + size]
            assert handle.tell() == min(begin + size, len(content))
        handle.seek(-10, 2)
        assert handle.read() == content[-10:]
        assert handle.read(5) == b""
    assert store.done["truncated"] >= 1
    assert store.done["slow_down"] >= 1
    fs, path = filesystem(f"{bucket}/x")
    assert storage.digest_of(f"{bucket}/x") == storage.hashlib.sha256(content).hexdigest()
    assert fs.info(path)["size"] == len(content)


def test_tables_shards_and_single_row_groups_are_the_same_as_on_a_disk(store: Any, bucket: str, tmp_path: Any):
    rows = [{"clip_id": f"c{index:03d}", "audio": {"bytes": bytes_of(index, 300), "path": None}} for index in range(60)]
    table = conform(pa.Table.from_pylist(rows), CLIPS, "test")
    store.share = 0.4
    roots = (str(tmp_path / "clips"), f"{bucket}/clips")
    written = [write_shards([table.slice(40), table.slice(0, 40)], root, rows_per_shard=25) for root in roots]
    assert written[0].shards == written[1].shards
    manifests = [read_manifest(root) for root in roots]
    assert manifests[0].shards == manifests[1].shards
    assert storage.read_table(roots[0]).equals(storage.read_table(roots[1]))
    storage.write_table(f"{bucket}/rows.parquet", table, row_group_rows=7)
    for start, stop in ((0, 60), (3, 9), (55, 60), (20, 21)):
        found = storage.read_rows(f"{bucket}/rows.parquet", start, stop, ["clip_id"])
        assert found["clip_id"].to_pylist() == [f"c{index:03d}" for index in range(start, stop)]
    assert storage.count_rows(f"{bucket}/rows.parquet") == 60
    assert sum(store.done.values()) >= 10


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "UPLOAD_PART_BYTES", 5 * 2**20)  # the least that S3 takes
    content = bytes_of(2, 21 * 2**20)
    for seed in range(2):
        store.share, store.seed = 0.4, seed
        storage.write_bytes(f"{bucket}/large", content)
        assert storage.read_bytes(f"{bucket}/large") == content
    assert store.asked[f"POST /{bucket[5:]}/large"] >= 4  # begun and completed, twice
    assert sum(store.done.values()) >= 5


def test_an_upload_whose_last_answer_was_lost_is_made_again(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "UPLOAD_PART_BYTES", 5 * 2**20)
    content, next_fault, lost = bytes_of(3, 11 * 2**20), store.next_fault, []

    def lose(method: str, target: str) -> str | None:
        next_fault(method, target)
        if method == "POST" and "uploadId" in target and not lost:
            lost.append(target)
            return "lost_answer"
        return None

    monkeypatch.setattr(store, "next_fault", lose)
    storage.write_bytes(f"{bucket}/large", content)
    assert lost
    assert storage.read_bytes(f"{bucket}/large") == content


@pytest.mark.parametrize("large", [False, True])
def test_a_body_that_always_breaks_off_is_an_error_and_never_a_file(
    store: Any, bucket: str, large: bool, monkeypatch: pytest.MonkeyPatch
):
    content = bytes_of(4, 10_000)
    storage.write_bytes(f"{bucket}/x.parquet", content)
    monkeypatch.setattr(store, "next_fault", lambda method, target: "truncated" if method == "GET" else None)
    if large:
        monkeypatch.setattr("s3fs.S3FileSystem.default_block_size", 3000)  # beyond it, several requests at once
    for read in (storage.read_bytes, storage.read_table, storage.digest_of, decode):
        with pytest.raises(StorageError, match=r"x\.parquet: cannot be reached or used .*, tried 3 times$") as caught:
            read(f"{bucket}/x.parquet")
        assert "\n" not in str(caught.value)


def test_clips_behind_uris_decode_to_the_same_samples(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raysem.audio.sources.REMOTE_BLOCK_BYTES", 20_000)
    expected = {}
    for index in range(12):
        if index == 6:
            monkeypatch.setattr("raysem.audio.sources.FETCH_WHOLE_BYTES", 10_000)  # the rest is read block by block
        buffer = io.BytesIO()
        samples = np.random.default_rng(index).uniform(-0.5, 0.5, 20_000).astype(np.float32)
        soundfile.write(buffer, samples, 16000, format="FLAC" if index % 2 else "WAV")
        expected[index] = decode(buffer.getvalue()).samples_CT
        storage.write_bytes(f"{bucket}/{index}.x", buffer.getvalue())
        store.share = 0.4
        np.testing.assert_array_equal(decode(f"{bucket}/{index}.x").samples_CT, expected[index])
        store.share = 0.0
    store.share = 0.4
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda index: decode(f"{bucket}/{index}.x").samples_CT, range(12))
        for index, samples_CT in enumerate(found):
            np.testing.assert_array_equal(samples_CT, expected[index])
    for name in range(12, 16):
        with pytest.raises(ClipError) as error:
            decode(f"{bucket}/{name}.x")
        assert error.value.outcome == "missing"
    assert store.done["truncated"] >= 1


def test_done_records_and_pending_shards_are_those_of_a_disk(store: Any, bucket: str, tmp_path: Any):
    names = [f"shard_{index:02d}" for index in range(12)]
    store.share = 0.3
    found = []
    for folder in (f"{bucket}/stage", str(tmp_path / "stage")):
        ledger = Ledger(folder)
        for index, name in enumerate(names[:8]):
            table = pa.table({"x": list(range(index + 1))})
            ledger.finish(DoneRecord(name, index + 1, {"kept": index + 1}), {"shards": table, "rejects": table})
        storage.write_bytes(ledger.file_of(names[2]), b"altered")
        storage.delete(ledger.file_of(names[5], "rejects"))
        found.append((ledger.records(), ledger.pending(names), [storage.name_of(file) for file in ledger.files()]))
    assert found[0] == found[1]
    assert found[0][1] == [names[2], names[5], *names[8:]]


def test_one_driver_holds_the_lock_and_gives_it_back(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks.time, "sleep", lambda _: None)
    store.share = 0.4
    for index in range(2):
        output = f"{bucket}/run_{index}"
        with run_lock(output):
            assert read_lock(output) is not None
            with pytest.raises(UserError, match="is at work on this output"):
                run_lock(output).__enter__()
        assert read_lock(output) is None
        assert storage.list_files(output) == []


def test_many_threads_write_and_read_their_own_files(store: Any, bucket: str):
    store.share = 0.3

    def there_and_back(index: int) -> bool:
        storage.write_bytes(f"{bucket}/t/{index}", bytes_of(index, 5000))
        return storage.read_bytes(f"{bucket}/t/{index}") == bytes_of(index, 5000)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(there_and_back, range(60)))
    assert len(storage.list_files(f"{bucket}/t")) == 60


def test_a_store_that_stops_answering_is_left_after_the_time_set(
    store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    storage.write_bytes(f"{bucket}/x", b"content")
    monkeypatch.setenv("RAYSEM_S3_READ_SECONDS", "0.2")
    held, next_fault = threading.Event(), store.next_fault
    silent = [True, True]

    def hold(method: str, target: str) -> str | None:
        if method == "GET" and silent:
            silent.pop()
            held.wait(20)
        return next_fault(method, target)

    monkeypatch.setattr(store, "next_fault", hold)
    assert storage.read_bytes(f"{bucket}/x") == b"content"
    held.set()
    assert silent == []


@pytest.mark.parametrize("value", ["soon", "0", "-3", "inf", "nan"])
def test_a_time_that_is_none_is_refused_by_name(store: Any, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYSEM_S3_CONNECT_SECONDS", value)
    with pytest.raises(UserError, match=rf"^RAYSEM_S3_CONNECT_SECONDS={value}: expected a number of seconds above 0$"):
        storage.exists("s3://b/x")


def test_aws_variables_set_the_number_of_attempts(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch):
    storage.write_bytes(f"{bucket}/x", b"content")
    monkeypatch.setattr(store, "next_fault", lambda method, target: store.count(method) or "slow_down")
    for variable, expected in (("", remote.S3_ATTEMPTS), ("2", 2)):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", variable) if variable else None
        store.forget()
        with pytest.raises(StorageError, match=r"SlowDown.*, tried 3 times$|Busy.*, tried 3 times$"):
            storage.list_files(f"{bucket}/folder")
        assert store.done["GET"] == remote.TRIES * expected


def test_what_another_process_has_written_anew_is_read_at_its_new_length(store: Any, bucket: str):
    storage.write_bytes(f"{bucket}/f/x", b"short")
    assert storage.list_files(f"{bucket}/f") == [f"{bucket}/f/x"]
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file(f"{bucket[5:]}/f/x", b"longer than before")
    assert storage.size_bytes(f"{bucket}/f/x") == 18
    with storage.open_read(f"{bucket}/f/x") as handle:
        assert handle.read() == b"longer than before"


def test_a_bucket_that_is_not_there_is_one_line_at_preflight(store: Any, bucket: str):
    line = "^s3://no-such-bucket/run: there is no bucket 'no-such-bucket'$"
    with pytest.raises(StorageError, match=line) as caught:
        check_output("s3://no-such-bucket/run")
    assert isinstance(caught.value, UserError)
    assert check_output(f"{bucket}/run") == []
    assert check_output(bucket) == []


def test_a_refusal_is_one_line_at_preflight_and_is_not_asked_twice(store: Any, bucket: str):
    store.refused = (bucket[5:],)
    corpora = type("Corpora", (), {"named_sources": {"wild": [type("Source", (), {"root": f"{bucket}/clips"})]}})
    for check in (
        lambda: check_output(f"{bucket}/run"),
        lambda: check_roots(corpora),
        lambda: storage.read_bytes(f"{bucket}/x"),
        lambda: storage.write_bytes(f"{bucket}/x", b"x"),
        lambda: storage.list_files(f"{bucket}/x"),
        lambda: storage.exists(f"{bucket}/x"),
        lambda: storage.delete(f"{bucket}/x"),
        lambda: decode(f"{bucket}/x"),
    ):
        store.forget()
        with pytest.raises(StorageError, match=r"^s3://\S+: cannot be reached or used \(PermissionError: ") as caught:
            check()
        assert "\n" not in str(caught.value)
        assert "tried" not in str(caught.value)
        assert store.done["refused"] == 1


def test_a_root_in_a_bucket_that_is_not_there_names_its_key(store: Any):
    corpora = type("Corpora", (), {"named_sources": {"wild": [type("Source", (), {"root": "s3://no-such-bucket/x"})]}})
    with pytest.raises(ConfigError, match=r"^corpora\.wild: root s3://no-such-bucket/x: no such file or folder"):
        check_roots(corpora)


def test_keys_that_a_bulk_delete_leaves_are_said(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch):
    storage.write_bytes(f"{bucket}/f/x", b"x")

    async def nothing(*_: Any, **__: Any) -> list[str]:
        return []

    monkeypatch.setattr("s3fs.S3FileSystem._bulk_delete", nothing)
    with pytest.raises(StorageError, match=r"something of it is left, .*f/x for one"):
        storage.delete(f"{bucket}/f")
