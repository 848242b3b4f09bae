from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_training import write_pairs

from raysem.errors import DataError
from raysem.training.cache import LeastRecentlyUsed
from raysem.training.table import TrainingTable


def test_both_layouts_and_both_ways_of_reading_give_the_same_rows(tmp_path: Path):
    clips = write_pairs(tmp_path / "clips.parquet", 30, row_group_rows=4)
    improved = write_pairs(tmp_path / "improved.parquet", 30, row_group_rows=7, improvement_set=True)
    whole = TrainingTable([clips])
    by_block = TrainingTable([clips], memory_mib=0)
    structs, structs_by_block = TrainingTable([improved]), TrainingTable([improved], memory_mib=0)
    assert (whole.in_memory, by_block.in_memory) == (True, False)
    assert by_block.block_rows == (4,) * 7 + (2,)
    assert by_block.window_blocks == 1
    for row in (0, 3, 4, 29, 17):
        assert whole.row(row) == by_block.row(row) == structs.row(row) == structs_by_block.row(row)
        assert len(whole.row(row).texts) == 2


def test_folders_and_files_join_into_one_table(tmp_path: Path):
    write_pairs(tmp_path / "shards" / "b.parquet", 5, prefix="b")
    write_pairs(tmp_path / "shards" / "a.parquet", 4, prefix="a", improvement_set=True)
    single = write_pairs(tmp_path / "single.parquet", 3, prefix="c")
    for memory_mib in (64, 0):
        table = TrainingTable([str(tmp_path / "shards"), single], memory_mib=memory_mib)
        assert [table.row(i).clip_id[0] for i in range(len(table))] == list("aaaabbbbbccc")


def test_a_caption_is_fixed_by_seed_epoch_and_clip(tmp_path: Path):
    table = TrainingTable([write_pairs(tmp_path / "clips.parquet", 40)])
    drawn = [[table.row(i).caption(seed=1, epoch=e) for i in range(40)] for e in range(10)]
    assert drawn == [[table.row(i).caption(seed=1, epoch=e) for i in range(40)] for e in range(10)]
    share = sum("far away" in caption for row in drawn for caption in row) / 400
    assert 0.4 < share < 0.6
    assert drawn[0] != drawn[1]


def test_rows_without_a_caption_are_dropped_in_memory_and_left_by_block(tmp_path: Path, caplog):
    path = tmp_path / "some.parquet"
    audio = {"bytes": b"x", "path": None}
    pq.write_table(
        pa.table(
            {
                "clip_id": ["a", "b", "c"],
                "audio": [audio] * 3,
                "captions": pa.array([["one"], None, []], pa.list_(pa.string())),
            }
        ),
        path,
    )
    table = TrainingTable([str(path)])
    assert len(table) == 1
    assert "2 of 3 clips have no caption" in caplog.text
    by_block = TrainingTable([str(path)], memory_mib=-1)
    assert [by_block.row(row).texts for row in range(3)] == [("one",), (), ()]


def test_hugging_face_s_order_of_fields_and_absent_segments_are_read(tmp_path: Path):
    path = tmp_path / "hf.parquet"
    audio = pa.array([{"path": "a.wav", "bytes": b"1"}], pa.struct([("path", pa.string()), ("bytes", pa.binary())]))
    pq.write_table(pa.table({"clip_id": ["a"], "audio": audio, "captions": [["one"]]}), path)
    row = TrainingTable([str(path)]).row(0)
    assert (row.audio_bytes, row.audio_path, row.start_seconds, row.duration_seconds) == (b"1", "a.wav", None, None)


def test_tables_that_cannot_serve_are_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no Parquet file there"):
        TrainingTable([str(tmp_path / "empty")])
    with pytest.raises(DataError, match=r"absent\.parquet: no such file"):
        TrainingTable([str(tmp_path / "absent.parquet")])
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        TrainingTable([str(tmp_path / "text.parquet")])
    pq.write_table(pa.table({"clip_id": ["a"]}), tmp_path / "bare.parquet")
    with pytest.raises(DataError, match=r"bare\.parquet: no column 'audio'"):
        TrainingTable([str(tmp_path / "bare.parquet")])
    pq.write_table(pa.table({"clip_id": ["a"], "audio": ["x"], "captions": [["a"]]}), tmp_path / "odd.parquet")
    with pytest.raises(DataError, match="expected clips with audio and captions, found clip_id string"):
        TrainingTable([str(tmp_path / "odd.parquet")])
    audio = {"bytes": b"x", "path": None}
    pq.write_table(pa.table({"clip_id": ["a"], "audio": [audio], "captions": ["a"]}), tmp_path / "flat.parquet")
    with pytest.raises(DataError, match="a list of strings or of structs"):
        TrainingTable([str(tmp_path / "flat.parquet")])


def test_the_cache_stays_within_its_bytes_and_makes_a_value_once():
    cache: LeastRecentlyUsed[int, bytes] = LeastRecentlyUsed(100)
    made: Counter[int] = Counter()

    def make(key: int) -> bytes:
        made[key] += 1
        return bytes(30)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: cache.get(i % 3, lambda: make(i % 3), len), range(300)))
    assert made == {0: 1, 1: 1, 2: 1}
    cache.get(0, lambda: make(0), len)
    cache.get(3, lambda: make(3), len)  # 1 has not been used for longest
    assert cache.num_bytes == 90
    cache.get(0, lambda: make(0), len)
    cache.get(1, lambda: make(1), len)
    assert made == {0: 1, 1: 2, 2: 1, 3: 1}
    cache.get(9, lambda: bytes(1000), len)
    assert cache.num_bytes == 90
