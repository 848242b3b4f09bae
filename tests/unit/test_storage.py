from __future__ import annotations

import hashlib
import os
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysem import storage
from raysem.errors import DataError, DiskFullError, StageError


def test_locations_are_put_together_and_taken_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/a") == str(tmp_path / "runs" / "a")
    assert storage.absolute("file:///x/y") == "/x/y"
    assert storage.absolute("s3://b/x/") == "s3://b/x"
    assert storage.join("s3://b/x/", "/y/", "z.json") == "s3://b/x/y/z.json"
    assert storage.name_of("s3://b/x/shard_1.parquet") == "shard_1"
    assert storage.parent_of("s3://b/x/shard_1.parquet") == "s3://b/x"


def test_listing_is_sorted_and_tells_files_from_folders(tmp_path: Path):
    for name in ("b.json", "a.json", "c.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "below").mkdir()
    root = str(tmp_path)
    assert storage.list_files(root) == [f"{root}/a.json", f"{root}/b.json", f"{root}/c.txt"]
    assert storage.list_files(root, ".json") == [f"{root}/a.json", f"{root}/b.json"]
    assert storage.list_folders(root) == [f"{root}/below"]


def test_what_is_absent_has_no_files_and_a_file_has_none_either(tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    assert storage.list_files(str(tmp_path / "nothing")) == []
    assert storage.list_files(str(tmp_path / "a.json")) == []
    assert storage.list_files("memory://storage-test/nothing") == []


def test_a_folder_below_one_of_the_same_name_is_listed(tmp_path: Path):
    for root in (str(tmp_path), "memory://storage-test"):
        storage.write_text(f"{root}/clips/clips/x.txt", "x")
        assert storage.list_folders(f"{root}/clips") == [f"{root}/clips/clips"]


def test_files_and_folders_exist_once_written(tmp_path: Path):
    for root in (str(tmp_path), "memory://storage-exists"):
        location = storage.join(root, "a", "b.txt")
        assert not storage.exists(location)
        storage.write_text(location, "é")
        assert storage.exists(location)
        assert storage.is_folder(storage.join(root, "a"))
        assert not storage.is_folder(location)
        assert storage.size_bytes(location) == 2
        assert storage.read_bytes(location) == "é".encode()
        storage.delete(storage.join(root, "a"))
        assert not storage.exists(location)
        storage.delete(storage.join(root, "a"))


def test_json_is_read_as_written(tmp_path: Path):
    location = str(tmp_path / "x.json")
    storage.write_json(location, {"b": [1, "ä"], "a": None})
    assert storage.read_json(location) == {"b": [1, "ä"], "a": None}
    assert list(storage.read_json(location)) == ["b", "a"]
    assert (tmp_path / "x.json").read_text().endswith("}\n")


@pytest.mark.parametrize("root", ["local", "memory://storage-whole"])
def test_a_write_that_fails_leaves_what_was_there_and_no_litter(root: str, tmp_path: Path):
    location = storage.join(str(tmp_path) if root == "local" else root, "x.txt")
    storage.write_text(location, "old")

    def fail() -> None:
        with storage.whole_file(location) as handle:
            handle.write(b"new, but only ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert storage.read_bytes(location) == b"old"
    assert storage.list_files(storage.parent_of(location)) == [location]


def test_a_disk_that_is_full_is_a_failed_stage_with_the_file_s_name_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, on_disk = tmp_path / "x", Path.open
    file.write_text("old")
    monkeypatch.setattr(Path, "open", lambda _, *mode: on_disk(Path("/dev/full"), *mode))
    with pytest.raises(DiskFullError, match=rf"^{file}: the disk is full; make space, and .* left on device\)$") as e:
        storage.write_text(str(file), "new")
    monkeypatch.undo()
    assert isinstance(e.value, StageError)
    assert isinstance(e.value, OSError)  # to whoever goes on without the file, as a cache does
    again = pickle.loads(pickle.dumps(e.value))
    assert (type(again), str(again)) == (DiskFullError, str(e.value))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_files_are_listed_with_the_second_in_which_they_were_written(tmp_path: Path):
    folder = tmp_path / "done"
    for second, name in ((2000, "b.json"), (1000, "a.json"), (3000, "c.txt")):
        storage.write_text(str(folder / name), "{}")
        os.utime(folder / name, (second, second))
    storage.write_text(str(folder / "below" / "d.json"), "{}")
    assert list(storage.write_times(str(folder), ".json").items()) == [
        (str(folder / "a.json"), 1000.0),
        (str(folder / "b.json"), 2000.0),
    ]
    assert storage.write_times(str(tmp_path / "nothing")) == {}


def test_a_table_written_twice_has_the_same_bytes(tmp_path: Path):
    table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
    first, second = str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")
    storage.write_table(first, table)
    storage.write_table(second, table)
    assert storage.digest_of(first) == storage.digest_of(second)
    assert storage.digest_of(first) == hashlib.sha256(Path(first).read_bytes()).hexdigest()


def test_a_folder_of_tables_is_read_in_the_order_of_names(tmp_path: Path):
    storage.write_table(str(tmp_path / "b.parquet"), pa.table({"a": [2], "b": [0]}))
    storage.write_table(str(tmp_path / "a.parquet"), pa.table({"a": [1], "b": [0]}))
    assert storage.read_table(str(tmp_path), ["a"]).to_pydict() == {"a": [1, 2]}


def test_rows_are_read_across_row_groups_like_a_slice_of_the_whole(tmp_path: Path):
    location = str(tmp_path / "x.parquet")
    storage.write_table(location, pa.table({"a": list(range(10)), "b": list("abcdefghij")}), row_group_rows=3)
    for start in range(11):
        for stop in range(start, 12):
            rows = storage.read_rows(location, start, stop, ["a"])
            assert rows.to_pydict() == {"a": list(range(10))[start:stop]}
    assert storage.count_rows(location) == 10


def test_tables_that_cannot_be_read_name_the_file_and_the_reason(tmp_path: Path):
    good, absent = str(tmp_path / "good.parquet"), str(tmp_path / "absent.parquet")
    storage.write_table(good, pa.table({"a": list(range(100))}))
    with pytest.raises(DataError, match=r"absent\.parquet: no such file"):
        storage.read_table(absent)
    with pytest.raises(DataError, match=r"absent\.parquet: no such file"):
        storage.count_rows(absent)
    with pytest.raises(DataError, match="no Parquet file there"):
        storage.read_table(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"good\.parquet: no column 'b'; there are \['a'\]"):
        storage.read_table(good, ["b"])
    with pytest.raises(DataError, match=r"good\.parquet: no column 'b'"):
        storage.read_rows(good, 0, 1, ["b"])


@pytest.mark.parametrize("damage", ["empty", "junk", "cut", "footer", "page"])
def test_a_damaged_table_is_one_line_with_its_name(damage: str, tmp_path: Path):
    path = tmp_path / "x.parquet"
    storage.write_table(str(path), pa.table({"a": list(range(100))}))
    content = bytearray(path.read_bytes())
    if damage == "footer":
        content[-30:-8] = b"\xff" * 22
    elif damage == "page":
        content[4:30] = b"\xff" * 26
    else:
        content = {"empty": b"", "junk": b"no parquet at all", "cut": bytes(content[:-20])}[damage]  # type: ignore[assignment]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file") as error:
        storage.read_table(str(path))
    assert "\n" not in str(error.value)


def test_no_flipped_bit_of_a_table_s_pages_is_read_as_another_value(tmp_path: Path):
    rng = np.random.default_rng(0)
    table = pa.table({"a": rng.standard_normal(20_000).astype("f4"), "b": [f"text {i % 97}" for i in range(20_000)]})
    file = tmp_path / "a.parquet"
    storage.write_table(str(file), table, row_group_rows=5_000)
    content, harmless = file.read_bytes(), 0
    for at in rng.integers(4, len(content) - 4_000, 40):  # the footer at the end has no checksum
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with suppress(DataError):
            # It may lie in a part of a page's header that says nothing of its values.
            assert storage.read_table(str(file)).equals(table)
            harmless += 1
    assert harmless < 10


def test_an_error_of_the_reader_of_an_open_file_stays_what_it_is(tmp_path: Path):
    storage.write_text(str(tmp_path / "x"), "x")

    def read() -> None:
        with storage.open_read(str(tmp_path / "x")):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()


def test_free_space_is_that_of_the_nearest_folder(tmp_path: Path):
    assert storage.free_bytes(str(tmp_path / "not" / "yet")) == pytest.approx(
        storage.free_bytes(str(tmp_path)), rel=0.1
    )
    assert storage.free_bytes("s3://bucket/x") is None


def test_deleting_a_link_leaves_what_it_leads_to(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    storage.delete(str(tmp_path / "link"))
    assert (tmp_path / "data" / "x").exists()
    assert not (tmp_path / "link").exists()


def test_a_table_is_a_plain_parquet_file(tmp_path: Path):
    storage.write_table(str(tmp_path / "x.parquet"), pa.table({"a": [1]}))
    assert pq.read_table(tmp_path / "x.parquet").to_pydict() == {"a": [1]}
