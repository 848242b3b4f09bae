from __future__ import annotations

import random
from pathlib import Path

import pytest

from raysem import storage
from raysem.corpora.rows import ClipRow, clips_table
from raysem.corpora.shards import read_manifest, write_shards
from raysem.errors import DataError
from raysem.tables import CLIPS


def rows(count: int, content: int = 0) -> list[ClipRow]:
    return [
        ClipRow(f"c/{i:05d}", "c", f"line {i}", path=f"/c/{i}.wav", content=bytes([i % 256]) * content or None)
        for i in range(count)
    ]


def test_the_shards_are_the_rows_sorted_and_cut(tmp_path: Path):
    shuffled = rows(25)
    random.Random(0).shuffle(shuffled)
    manifest = write_shards([clips_table(shuffled[:7]), clips_table(shuffled[7:])], str(tmp_path), rows_per_shard=10)
    assert [(s.file, s.rows, s.first_clip_id, s.last_clip_id) for s in manifest.shards] == [
        ("shard_00000.parquet", 10, "c/00000", "c/00009"),
        ("shard_00001.parquet", 10, "c/00010", "c/00019"),
        ("shard_00002.parquet", 5, "c/00020", "c/00024"),
    ]
    table = storage.read_table(str(tmp_path))
    assert table.schema.equals(CLIPS)
    assert table.equals(clips_table(rows(25)))
    assert [storage.digest_of(file) for file in manifest.files] == [s.sha256 for s in manifest.shards]


def test_the_manifest_reads_back_from_the_folder_or_from_the_one_above(tmp_path: Path):
    written = write_shards([clips_table(rows(3))], str(tmp_path / "clips"))
    assert read_manifest(str(tmp_path / "clips")) == written
    assert read_manifest(str(tmp_path)) == written


def test_the_files_do_not_depend_on_the_order_nor_on_the_buffer(tmp_path: Path):
    plain = write_shards([clips_table(rows(300, 2000))], str(tmp_path / "a"), rows_per_shard=40)
    for seed in range(3):
        shuffled = rows(300, 2000)
        random.Random(seed).shuffle(shuffled)
        tables = [clips_table(shuffled[start : start + 9]) for start in range(0, 300, 9)]
        spilled = write_shards(tables, str(tmp_path / f"b{seed}"), rows_per_shard=40, buffer_mib=0.05)
        assert spilled.shards == plain.shards


def test_a_shard_with_bytes_inside_is_cut_at_its_size(tmp_path: Path):
    manifest = write_shards([clips_table(rows(10, 2**18))], str(tmp_path), max_shard_mib=1)
    assert [shard.rows for shard in manifest.shards] == [4, 4, 2]
    one_each = write_shards([clips_table(rows(3, 2**18))], str(tmp_path), max_shard_mib=0.1)
    assert [shard.rows for shard in one_each.shards] == [1, 1, 1]


def test_a_shorter_table_leaves_no_shard_of_the_longer_one(tmp_path: Path):
    write_shards([clips_table(rows(30))], str(tmp_path), rows_per_shard=10)
    write_shards([clips_table(rows(5))], str(tmp_path), rows_per_shard=10)
    assert [Path(file).name for file in storage.list_files(str(tmp_path), ".parquet")] == ["shard_00000.parquet"]


@pytest.mark.parametrize("buffer_mib", [256, 0.001])
def test_an_id_that_stands_twice_is_named(tmp_path: Path, buffer_mib: float):
    tables = [clips_table(rows(12)), clips_table(rows(12)[7:8])]
    with pytest.raises(DataError, match="clip_id 'c/00007' stands twice"):
        write_shards(tables, str(tmp_path), rows_per_shard=4, buffer_mib=buffer_mib)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        read_manifest(str(tmp_path))


def test_an_id_twice_across_the_border_of_two_shards_is_seen(tmp_path: Path):
    with pytest.raises(DataError, match="'c/00003' stands twice"):
        write_shards([clips_table([*rows(4), rows(4)[3]])], str(tmp_path), rows_per_shard=4)


def test_an_empty_table_has_a_manifest_without_shards(tmp_path: Path):
    assert write_shards([], str(tmp_path)).rows == 0
    assert read_manifest(str(tmp_path)).shards == ()


def test_a_folder_without_a_manifest_is_no_clips_table(tmp_path: Path):
    with pytest.raises(DataError, match="did not finish"):
        read_manifest(str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"rows": 1}')
    with pytest.raises(DataError, match="not a manifest of shards"):
        read_manifest(str(tmp_path))
