from __future__ import annotations

from pathlib import Path

import pytest

from raysem import storage
from raysem.corpora import packing
from raysem.corpora.packing import pack
from raysem.corpora.rows import ClipRow, clips_table
from raysem.corpora.shards import read_manifest, write_shards
from raysem.errors import DataError, StorageError

KIB = 1 / 1024


@pytest.fixture
def clips(tmp_path: Path) -> str:
    """Twelve clips of 1 KiB: ten files (one gone, one empty), two with the bytes in the table."""
    rows = []
    for index in range(12):
        path = tmp_path / f"audio/{index}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([index]) * 1024)
        inline = index in (3, 8)
        content = path.read_bytes() if inline else None
        rows.append(
            ClipRow(f"c/{index:02d}", "c", "p", path=path.name if inline else str(path), content=content, fold=1)
        )
    (tmp_path / "audio/2.wav").unlink()
    (tmp_path / "audio/5.wav").write_bytes(b"")
    return write_shards([clips_table(rows)], str(tmp_path / "clips"), rows_per_shard=5).location


def test_the_bytes_are_inside_in_the_order_of_the_ids_and_nothing_is_lost(clips: str, tmp_path: Path):
    summary = pack(clips, str(tmp_path / "out"), target_mib_per_shard=4 * KIB)
    assert {key: summary[key] for key in ("clips", "shards", "shards_skipped", "rejects")} == {
        "clips": 10,
        "shards": 3,
        "shards_skipped": 0,
        "rejects": {"empty": 1, "missing": 1},
    }
    assert [shard.rows for shard in read_manifest(str(tmp_path / "out")).shards] == [4, 4, 2]
    for row in storage.read_table(str(tmp_path / "out/clips")).to_pylist():
        index = int(row["clip_id"].removeprefix("c/"))
        assert row["audio"] == {"bytes": bytes([index]) * 1024, "path": f"{index}.wav"}
        assert row["fold"] == 1
    rejects = storage.read_table(str(tmp_path / "out/rejects.parquet"))
    assert rejects.select(["clip_id", "stage", "outcome"]).to_pylist() == [
        {"clip_id": "c/02", "stage": "packing", "outcome": "missing"},
        {"clip_id": "c/05", "stage": "packing", "outcome": "empty"},
    ]


def test_a_second_run_reads_no_clip_and_gives_the_same(clips: str, tmp_path: Path, monkeypatch):
    out = str(tmp_path / "out")
    first = pack(clips, out, target_mib_per_shard=4 * KIB)
    shards = read_manifest(out).shards
    monkeypatch.setattr(packing, "_with_content", lambda row, limits: pytest.fail("a clip was read again"))
    second = pack(clips, out, target_mib_per_shard=4 * KIB)
    assert second["shards_skipped"] == 3
    assert {**second, "shards_skipped": 0, "seconds": 0} == {**first, "seconds": 0}
    assert read_manifest(out).shards == shards


@pytest.mark.parametrize("shards_before", [0, 1, 2])
def test_a_run_that_was_killed_goes_on_and_ends_as_one_run(clips: str, tmp_path: Path, monkeypatch, shards_before: int):
    whole = str(tmp_path / "whole")
    pack(clips, whole, target_mib_per_shard=4 * KIB)
    out = str(tmp_path / "out")
    write_shard, written = packing.write_shard, []

    def dying(folder, index, table):
        if len(written) == shards_before:
            raise KeyboardInterrupt
        written.append(index)
        return write_shard(folder, index, table)

    monkeypatch.setattr(packing, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        pack(clips, out, target_mib_per_shard=4 * KIB)
    monkeypatch.setattr(packing, "write_shard", write_shard)
    assert pack(clips, out, target_mib_per_shard=4 * KIB)["shards_skipped"] == shards_before
    assert read_manifest(out).shards == read_manifest(whole).shards
    assert storage.digest_of(f"{out}/rejects.parquet") == storage.digest_of(f"{whole}/rejects.parquet")


def test_a_shard_without_its_record_is_written_again(clips: str, tmp_path: Path):
    out = tmp_path / "out"
    pack(clips, str(out), target_mib_per_shard=4 * KIB)
    before = read_manifest(str(out)).shards
    (out / "records/shard_00001.json").unlink()
    (out / "clips/shard_00001.parquet").write_bytes(b"half")
    assert pack(clips, str(out), target_mib_per_shard=4 * KIB)["shards_skipped"] == 1
    assert read_manifest(str(out)).shards == before


def test_another_input_or_another_size_is_refused_in_the_same_folder(clips: str, tmp_path: Path):
    out = str(tmp_path / "out")
    pack(clips, out, target_mib_per_shard=4 * KIB)
    with pytest.raises(DataError, match=r"holds another packing .*target_mib_per_shard"):
        pack(clips, out, target_mib_per_shard=8 * KIB)
    other = write_shards([clips_table([ClipRow("d", "c", "p", content=b"x")])], str(tmp_path / "other")).location
    with pytest.raises(DataError, match=r"holds another packing .*input"):
        pack(other, out, target_mib_per_shard=4 * KIB)
    with pytest.raises(DataError, match="is the input"):
        pack(clips, clips)


def test_a_clip_above_the_limit_is_a_reject(clips: str, tmp_path: Path):
    (tmp_path / "audio/0.wav").write_bytes(bytes(4096))
    assert pack(clips, str(tmp_path / "out"), max_clip_mib=2 * KIB)["rejects"] == {
        "empty": 1,
        "missing": 1,
        "too_long": 1,
    }


def test_a_store_that_does_not_give_a_file_stops_the_packing(tmp_path: Path):
    rows = [ClipRow(name, "c", "p", path=f"nosuchscheme://bucket/{name}.wav") for name in "ab"]
    write_shards([clips_table(rows)], str(tmp_path / "clips"))
    with pytest.raises(StorageError, match=r"^nosuchscheme://bucket/a\.wav: no filesystem for this scheme"):
        pack(str(tmp_path / "clips"), str(tmp_path / "out"), max_failed_share=1)
    assert not (tmp_path / "out/rejects.parquet").exists()


def test_a_folder_where_a_file_should_be_is_a_reject(clips: str, tmp_path: Path):
    (tmp_path / "audio/0.wav").unlink()
    (tmp_path / "audio/0.wav").mkdir()
    assert pack(clips, str(tmp_path / "out"))["rejects"] == {"empty": 1, "missing": 2}


def test_a_disk_that_is_gone_stops_the_packing_with_examples(clips: str, tmp_path: Path):
    for path in (tmp_path / "audio").iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r"10 of 12 clips cannot be packed, above max_failed_share=0\.5; such as c/00: missing"
    ):
        pack(clips, str(tmp_path / "out"))


def test_all_rejects_give_an_empty_table_when_that_is_allowed(tmp_path: Path):
    rows = [ClipRow("a", "c", "p", path=str(tmp_path / "no.wav"))]
    write_shards([clips_table(rows)], str(tmp_path / "clips"))
    summary = pack(str(tmp_path / "clips"), str(tmp_path / "out"), max_failed_share=1)
    assert (summary["clips"], summary["shards"], summary["rejects"]) == (0, 0, {"missing": 1})
    assert pack(str(tmp_path / "clips"), str(tmp_path / "out"), max_failed_share=1)["shards_skipped"] == 0


def test_what_is_no_clips_table_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no manifest\.json"):
        pack(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(DataError, match="must be above 0"):
        pack(str(tmp_path), str(tmp_path / "out"), target_mib_per_shard=0)
