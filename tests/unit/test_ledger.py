from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysem import ledger as ledger_module
from raysem import storage
from raysem.ledger import DoneRecord, Ledger, read_record, total


@pytest.fixture(params=["local", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    folder = str(tmp_path / "stage") if request.param == "local" else f"memory://ledger/{tmp_path.name}"
    return Ledger(folder)


def finish(ledger: Ledger, shard: str, rows: int = 2) -> DoneRecord:
    record = DoneRecord(shard, rows, Counter(kept=rows - 1, silent=1), seconds=1.5, audio_seconds=10.0)
    tables = {"shards": pa.table({"a": list(range(rows))}), "rejects": pa.table({"b": [shard]})}
    return ledger.finish(record, tables)


def test_a_finished_shard_is_found_with_its_files_and_their_digests(ledger: Ledger):
    written = finish(ledger, "shard_1")
    assert ledger.records(verify=True) == {"shard_1": written}
    assert written.digests.keys() == {"shards", "rejects"}
    assert written.digests["shards"] == storage.digest_of(ledger.file_of("shard_1"))
    assert ledger.files("rejects") == [ledger.file_of("shard_1", "rejects")]


def test_only_what_has_no_sound_record_is_pending_in_the_order_given(ledger: Ledger):
    assert ledger.pending(["b", "a"]) == ["b", "a"]
    finish(ledger, "a")
    assert ledger.pending(["c", "b", "a"]) == ["c", "b"]


def test_a_file_without_a_record_is_no_finished_shard(ledger: Ledger):
    storage.write_table(ledger.file_of("a"), pa.table({"a": [1]}))
    assert ledger.records() == {}
    assert ledger.pending(["a"]) == ["a"]


@pytest.mark.parametrize("kind", ["shards", "rejects"])
def test_a_record_whose_file_is_gone_or_altered_does_not_count(ledger: Ledger, kind: str):
    finish(ledger, "a")
    finish(ledger, "b")
    storage.delete(ledger.file_of("a", kind))
    storage.write_table(ledger.file_of("b", kind), pa.table({"other": [1]}))
    assert set(ledger.records()) == {"a", "b"}
    assert ledger.records(verify=True) == {}


def test_a_record_of_an_older_version_counts(ledger: Ledger):
    written = finish(ledger, "a")
    location = storage.join(ledger.folder, "done", "a.json")
    storage.write_json(location, storage.read_json(location) | {"attempt": ""})
    assert ledger.records(verify=True) == {"a": written}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"shard": "a"}', '{"shard": "a", "rows": 1, "new": 2}'])
def test_a_damaged_record_is_no_record(ledger: Ledger, content: str, caplog: pytest.LogCaptureFixture):
    finish(ledger, "b")
    storage.write_text(storage.join(ledger.folder, "done", "a.json"), content)
    assert set(ledger.records()) == {"b"}
    assert "made again" in caplog.text


def test_making_a_shard_again_gives_the_same_files(ledger: Ledger):
    first = finish(ledger, "a").digests
    assert finish(ledger, "a").digests == first


def rows_of_groups(ledger: Ledger, shard: str) -> list[int]:
    with storage.open_read(ledger.file_of(shard)) as handle:
        metadata = pq.ParquetFile(handle).metadata
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def test_large_rows_lie_in_small_row_groups_and_small_rows_in_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledger_module, "ROW_GROUP_BYTES", 100_000)
    content = pa.array([{"bytes": bytes(5000), "path": None}] * 100)
    large = pa.table({"clip_id": [f"clip_{index}" for index in range(100)], "audio": content})
    ledger.finish(DoneRecord("large", 100), {"shards": large})
    groups = rows_of_groups(ledger, "large")
    assert sum(groups) == 100
    assert 15 <= groups[0] <= 20
    assert storage.read_table(ledger.file_of("large")).to_pylist() == large.to_pylist()
    ledger.finish(DoneRecord("small", 100), {"shards": large.select(["clip_id"])})
    assert rows_of_groups(ledger, "small") == [100]
    ledger.finish(DoneRecord("huge", 3), {"shards": pa.table({"a": [bytes(200_000)] * 3})})
    assert rows_of_groups(ledger, "huge") == [1, 1, 1]
    ledger.finish(DoneRecord("none", 0), {"shards": large.slice(0, 0)})
    assert storage.count_rows(ledger.file_of("none")) == 0


def test_totals_are_sums_over_shards(ledger: Ledger):
    finish(ledger, "a", rows=3)
    finish(ledger, "b", rows=5)
    assert total(ledger.records().values()) == {
        "shards": 2,
        "rows": 8,
        "outcomes": {"kept": 6, "silent": 2},
        "work_seconds": 3.0,
        "audio_seconds": 20.0,
    }
    assert total([]) == {"shards": 0, "rows": 0, "outcomes": {}, "work_seconds": 0.0, "audio_seconds": 0.0}


@pytest.mark.parametrize(
    "content",
    [
        [],
        "a",
        {"rows": 1},
        {"shard": "a", "rows": "1"},
        {"shard": "a", "rows": 1, "outcomes": {"kept": None}},
        {"shard": "a", "rows": 1, "outcomes": 5},
        {"shard": "a", "rows": 1, "pages": 2},
        {"shard": "b", "rows": 1},
        {"shard": "a", "rows": 1, "check": "0123456789ab"},
    ],
)
def test_what_is_no_record_is_a_value_error_and_makes_its_shard_again(ledger: Ledger, content: Any):
    location = storage.join(ledger.folder, "done", "a.json")
    storage.write_json(location, content)
    with pytest.raises(ValueError, match=r"."):
        read_record(location)
    assert ledger.records() == {}


def test_a_record_of_an_older_version_is_read(ledger: Ledger):
    location = storage.join(ledger.folder, "done", "a.json")
    storage.write_json(location, {"shard": "a", "rows": 4, "outcomes": {"kept": 4}, "attempt": 2})
    assert read_record(location) == DoneRecord("a", 4, {"kept": 4})
