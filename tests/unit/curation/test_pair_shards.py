from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.corpora.rows import caption_id
from raysem.corpora.shards import write_shards
from raysem.curation.match_shards import MatchShards
from raysem.curation.pair_shards import CaptionTexts, SelectShards, annotated_pairs, pool_facts, rank_pairs
from raysem.curation.selection import PoolFacts, SelectionSettings
from raysem.errors import DataError
from raysem.ledger import DoneRecord, Ledger
from raysem.tables import CAPTIONS, CLIPS, IMPROVEMENT_SET, SCORED_PAIRS, conform, embeddings_schema

FLOOR = 0.1


def write_embeddings(folder: str, id_name: Any, shards: dict[str, tuple[Sequence[str], np.ndarray]]) -> str:
    for shard, (ids, matrix) in shards.items():
        width = matrix.shape[1] if len(ids) else 1  # a shard without usable clips does not know its width
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1).astype(np.float32)), width)
        table = pa.table([pa.array(list(ids), pa.string()), vectors], schema=embeddings_schema(id_name, width, {}))
        Ledger(folder).finish(DoneRecord(shard, len(ids), {"kept": len(ids)}), {"shards": table})
    return folder


def unit(rows: int, seed: int, width: int = 5) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(rows, width))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


class Pool:
    """Nine clips in three shards, one of them empty, and six captions in two."""

    def __init__(self, folder: Path):
        self.root = str(folder)
        self.audio_AD, self.text_CD = unit(9, 0), unit(6, 1)
        self.clip_ids = [f"clip{index}" for index in range(9)]
        self.texts = [f"caption {index}" for index in range(6)]
        self.caption_ids = [caption_id(text) for text in self.texts]
        cut = {"shard_0": slice(0, 4), "shard_1": slice(4, 4), "shard_2": slice(4, 9)}
        self.clips = write_embeddings(
            f"{self.root}/embed/clips", "clip_id", {k: (self.clip_ids[s], self.audio_AD[s]) for k, s in cut.items()}
        )
        self.captions = write_embeddings(
            f"{self.root}/embed/captions",
            "caption_id",
            {k: (self.caption_ids[s], self.text_CD[s]) for k, s in (("a", slice(0, 4)), ("b", slice(4, 6)))},
        )
        rows = [{"clip_id": name, "audio": {"bytes": name.encode(), "path": f"{name}.wav"}} for name in self.clip_ids]
        table = conform(pa.Table.from_pylist(rows), CLIPS, "test")
        self.tables: dict[str, str] = {}
        for name, part in cut.items():
            location = f"{self.root}/clips/{name}.parquet"
            storage.write_table(location, table.slice(part.start, part.stop - part.start))
            self.tables[name] = location
        self.texts_file = f"{self.root}/captions.parquet"
        storage.write_table(
            self.texts_file,
            pa.Table.from_pylist(
                [
                    {"caption_id": i, "text": t, "source": "x"}
                    for i, t in zip(self.caption_ids, self.texts, strict=True)
                ],
                schema=CAPTIONS,
            ),
        )

    def match(self, floor: float = FLOOR) -> str:
        scored, work = f"{self.root}/match/scored", MatchShards(self.clips, self.captions, floor)
        for shard in self.tables:
            Ledger(scored).finish(*work(shard))
        rank_pairs(scored, f"{self.root}/match", len(self.caption_ids))
        return f"{self.root}/match"

    def select(self, pairs: str, settings: SelectionSettings, facts: PoolFacts | None = None, **more: Any) -> Any:
        facts = facts or pool_facts(pairs, settings, None)
        work = SelectShards(
            pairs=pairs,
            clips=self.tables,
            captions=[self.texts_file],
            settings=settings,
            facts=facts,
            teacher="weights",
            **more,
        )
        made = {shard: work(shard) for shard in self.tables}
        tables = [tables["shards"] for _, tables in made.values()]
        assert all(table.schema == IMPROVEMENT_SET for table in tables)
        return {shard: record for shard, (record, _) in made.items()}, pa.concat_tables(tables).to_pylist()

    def cosines(self) -> dict[tuple[str, str], float]:
        cosine_AC = self.audio_AD.astype(np.float64) @ self.text_CD.astype(np.float64).T
        return {
            (clip, caption): cosine_AC[a, c]
            for a, clip in enumerate(self.clip_ids)
            for c, caption in enumerate(self.caption_ids)
        }


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


def read(folder: str) -> list[dict[str, Any]]:
    return [row for file in Ledger(folder).files() for row in storage.read_table(file).to_pylist()]


def test_the_pairs_above_the_floor_and_their_ranks_are_those_of_a_slow_twin(pool: Pool):
    cosines = pool.cosines()
    found = {(row["clip_id"], row["caption_id"]): row for row in read(pool.match())}
    expected = {pair: value for pair, value in cosines.items() if value >= FLOOR}
    assert found.keys() == expected.keys()
    for (clip, caption), row in found.items():
        assert row["similarity"] == pytest.approx(cosines[clip, caption], abs=1e-6)
        assert row["rank_for_clip"] == 1 + sum(
            cosines[clip, other] > cosines[clip, caption] for other in pool.caption_ids
        )
        assert row["rank_for_caption"] == 1 + sum(
            cosines[other, caption] > cosines[clip, caption] for other in pool.clip_ids
        )


def test_every_clip_of_a_shard_is_counted_once_and_an_empty_shard_has_no_pair(pool: Pool):
    work = MatchShards(pool.clips, pool.captions, 0.6)
    for shard, rows in (("shard_0", 4), ("shard_1", 0), ("shard_2", 5)):
        record, tables = work(shard)
        assert record.rows == rows == sum(record.outcomes.values())
        assert record.outcomes.get("kept", 0) == len(set(tables["shards"]["clip_id"].to_pylist()))


def test_ranked_pairs_have_the_schema_and_their_number_is_given(pool: Pool):
    folder = pool.match()
    assert all(storage.read_table(file).schema == SCORED_PAIRS for file in Ledger(folder).files())
    again = rank_pairs(f"{folder}/scored", folder, len(pool.caption_ids))
    assert again == {"pairs": len(read(folder)), "shards": 3}


def test_ranking_again_gives_the_same_files(pool: Pool):
    folder = pool.match()
    before = Ledger(folder).records()
    rank_pairs(f"{folder}/scored", folder, len(pool.caption_ids))
    assert Ledger(folder).records() == before


def test_a_selection_has_each_clip_with_its_captions_the_nearest_first(pool: Pool):
    records, rows = pool.select(pool.match(), SelectionSettings(similarity_threshold=0.3))
    expected = {pair: value for pair, value in pool.cosines().items() if value >= 0.3}
    assert [row["clip_id"] for row in rows] == sorted({clip for clip, _ in expected})
    for row in rows:
        found = [(caption["caption_id"], caption["similarity"]) for caption in row["captions"]]
        assert {caption for caption, _ in found} == {caption for clip, caption in expected if clip == row["clip_id"]}
        assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)
        assert all(pool.texts[pool.caption_ids.index(c["caption_id"])] == c["text"] for c in row["captions"])
        assert row["audio"]["path"] == f"{row['clip_id']}.wav"
        assert (row["strategy"], row["teacher"]) == ("DU", "weights")
        assert row["threshold"] == pytest.approx(0.3)
    pairs = read(f"{pool.root}/match")
    assert sum(record.outcomes.get("pairs_kept", 0) for record in records.values()) == len(expected)
    assert sum(sum(record.outcomes.values()) for record in records.values()) == len(pairs)


def test_excluded_clips_are_in_no_selection(pool: Pool):
    pairs, settings = pool.match(), SelectionSettings(similarity_threshold=0.2)
    _, rows = pool.select(pairs, settings)
    gone = rows[0]["clip_id"]
    storage.write_table(f"{pool.root}/rejects.parquet", pa.table({"clip_id": [gone]}))
    _, fewer = pool.select(pairs, settings, excluded=f"{pool.root}/rejects.parquet")
    assert fewer == [row for row in rows if row["clip_id"] != gone]


@pytest.mark.parametrize("threshold", [0.2, 0.99])
def test_audio_bytes_are_copied_on_demand_also_into_shards_that_keep_nothing(threshold: float, pool: Pool):
    table = storage.read_table(pool.tables["shard_0"])
    storage.write_bytes(f"{pool.root}/clip0.wav", b"from the disk")
    audio = [{"bytes": None, "path": f"{pool.root}/clip0.wav"}, *table["audio"].to_pylist()[1:]]
    storage.write_table(
        pool.tables["shard_0"], table.set_column(1, CLIPS.field("audio"), pa.array(audio, CLIPS.field("audio").type))
    )
    settings = SelectionSettings(similarity_threshold=threshold)
    _, rows = pool.select(pool.match(), settings, materialize_audio=True)
    expected = {"clip0": b"from the disk"}
    assert all(row["audio"]["bytes"] == expected.get(row["clip_id"], row["clip_id"].encode()) for row in rows)
    assert bool(rows) == (threshold < 0.9)


def test_a_cap_counts_the_pairs_above_the_threshold_over_all_shards(pool: Pool):
    pairs = pool.match()
    settings = SelectionSettings(similarity_threshold=0.4, cap_per_caption=1)
    facts = pool_facts(pairs, settings, None)
    above = [caption for (_, caption), value in pool.cosines().items() if value >= 0.4]
    assert {name: count for name, count in facts.caption_counts.items() if count} == {
        name: above.count(name) for name in set(above)
    }
    stored = {row["caption_id"] for row in read(pairs)}
    assert set(facts.caption_counts) == stored > set(above)  # some captions have pairs between floor and threshold only
    _, rows = pool.select(pairs, settings, facts)
    kept = [caption["caption_id"] for row in rows for caption in row["captions"]]
    assert set(kept) <= set(above)
    _, everything = pool.select(pairs, settings.model_copy(update={"cap_per_caption": 100}))
    assert sorted(c["caption_id"] for row in everything for c in row["captions"]) == sorted(above)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_quantile_keeps_its_share_of_all_stored_pairs(share: float, pool: Pool):
    pairs = pool.match()
    settings = SelectionSettings(similarity_threshold=-1, quantile=share)
    _, rows = pool.select(pairs, settings)
    values = sorted((row["similarity"] for row in read(pairs)), reverse=True)
    kept = sorted((caption["similarity"] for row in rows for caption in row["captions"]), reverse=True)
    assert kept == values[: int(np.ceil(share * len(values)))]


def test_a_cap_with_a_quantile_counts_what_the_quantile_leaves(pool: Pool):
    pairs = pool.match()
    settings = SelectionSettings(similarity_threshold=-1, quantile=0.3, cap_per_caption=1)
    facts = pool_facts(pairs, settings, None)
    assert facts.quantile_similarity is not None
    stored = [row for row in read(pairs) if row["similarity"] >= facts.quantile_similarity]
    assert sum(facts.caption_counts.values()) == len(stored)


def test_facts_that_no_rule_asks_for_are_not_gathered(tmp_path: Path):
    facts = pool_facts(str(tmp_path / "nothing"), SelectionSettings(), frozenset({"a"}))
    assert facts == PoolFacts(kept_captions=frozenset({"a"}))


def test_a_margin_needs_the_neighbour_tables(tmp_path: Path):
    with pytest.raises(ValueError, match="margin needs the neighbour tables"):
        pool_facts(str(tmp_path), SelectionSettings(margin={"threshold": 1.0}), None)


def test_annotated_pairs_keep_the_captions_near_the_domain(tmp_path: Path):
    rows = [
        {"clip_id": "a", "audio": {"bytes": b"1", "path": None}, "captions": ["A dog.", "rain"]},
        {"clip_id": "b", "audio": {"bytes": b"2", "path": None}, "captions": ["rain"]},
        {"clip_id": "c", "audio": {"bytes": b"3", "path": None}, "captions": None, "start_seconds": 1.0},
    ]
    manifest = write_shards([conform(pa.Table.from_pylist(rows), CLIPS, "test")], str(tmp_path))
    settings = SelectionSettings(strategy="DS", caption_threshold=0.6)
    table = annotated_pairs(manifest.files[0], settings, {caption_id("a dog"): 0.8}, "weights")
    assert table.schema == IMPROVEMENT_SET
    assert [row["clip_id"] for row in table.to_pylist()] == ["a"]
    (row,) = table.to_pylist()
    assert row["captions"] == [{"caption_id": caption_id("a dog"), "text": "A dog.", "similarity": pytest.approx(0.8)}]
    assert row["rule"] == "DS: caption within 0.6 of a label"
    assert len(annotated_pairs(manifest.files[0], settings, {}, "weights")) == 0


def test_texts_are_read_from_all_shards_of_captions(pool: Pool):
    assert CaptionTexts.read([pool.texts_file]).text_of == dict(zip(pool.caption_ids, pool.texts, strict=True))


def test_a_pool_without_embeddings_of_captions_is_refused(pool: Pool, tmp_path: Path):
    with pytest.raises(DataError, match="no embeddings there"):
        MatchShards(pool.clips, str(tmp_path / "nothing"), 0.5)
