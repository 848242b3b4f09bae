from __future__ import annotations

from pathlib import Path

import pytest

from raysem import storage
from raysem.corpora.rows import caption_id
from raysem.errors import DataError
from raysem.runs import caption_pool, roles


def test_each_text_is_in_the_pool_once_with_the_labels_of_all_its_parts(tmp_path: Path, write_part):
    first = write_part(tmp_path / "a", captions={"A dog barks.": ["dog"], "rain": []})
    second = write_part(tmp_path / "b", captions={"a dog  barks": ["animal"], "a cat": ["cat"]})
    pool = str(tmp_path / "pool")
    assert caption_pool.build(pool, [first, second]) == {"captions": 3}
    rows = storage.read_table(roles.caption_shards(pool)[0]).to_pylist()
    assert [row["caption_id"] for row in rows] == sorted(caption_id(text) for text in ("a dog barks", "rain", "a cat"))
    assert {row["text"] for row in rows} == {"A dog barks.", "rain", "a cat"}
    labels = storage.read_table(storage.join(pool, "caption_labels.parquet")).to_pylist()
    assert {row["caption_id"]: row["labels"] for row in labels} == {
        caption_id("a dog barks"): ["animal", "dog"],
        caption_id("rain"): [],
        caption_id("a cat"): ["cat"],
    }


def test_the_pool_does_not_depend_on_the_order_of_parts_but_for_the_spelling(tmp_path: Path, write_part):
    parts = [write_part(tmp_path / name, captions={text: []}) for name, text in (("a", "a dog"), ("b", "a cat"))]
    for name, order in (("one", parts), ("two", parts[::-1])):
        caption_pool.build(str(tmp_path / name), order)
    one, two = (storage.read_table(roles.caption_shards(str(tmp_path / name))[0]) for name in ("one", "two"))
    assert one.equals(two)


def test_a_large_pool_is_cut_into_shards_in_order(tmp_path: Path, write_part, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roles, "CAPTIONS_PER_SHARD", 2)
    part = write_part(tmp_path / "a", captions={f"caption {index}": [] for index in range(5)})
    caption_pool.build(str(tmp_path / "pool"), [part])
    files = roles.caption_shards(str(tmp_path / "pool"))
    ids = [row for file in files for row in storage.read_table(file)["caption_id"].to_pylist()]
    assert [storage.count_rows(file) for file in files] == [2, 2, 1]
    assert ids == sorted(ids)


def test_a_pool_without_captions_says_what_to_give(tmp_path: Path, write_part):
    part = write_part(tmp_path / "a")
    with pytest.raises(DataError, match=r"no caption; give corpora\.captions"):
        caption_pool.build(str(tmp_path / "pool"), [part])
