from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.curation.embeddings import read_embeddings
from raysem.curation.match_shards import MatchShards
from raysem.curation.matching import pair_similarity
from raysem.curation.neighbour_means import caption_means, clip_means, mean_similarities
from raysem.curation.neighbour_shards import (
    NeighbourShards,
    neighbour_shards,
    neighbours_schema,
    occurrences,
    prepare_index,
)
from raysem.curation.neighbours import NeighbourSettings
from raysem.curation.pair_shards import SelectShards, pool_facts, rank_pairs
from raysem.curation.selection import MarginSettings, SelectionSettings
from raysem.errors import DataError
from raysem.ledger import DoneRecord, Ledger
from raysem.tables import CAPTIONS, CLIPS, embeddings_schema


def unit_rows(num_rows: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Pool:
    """Embeddings of 23 clips in 4 shards (one of them without a usable clip) and 11 captions in 2."""

    def __init__(self, folder: Path, cuts: tuple[int, ...] = (9, 9, 16)):
        self.audio_AD, self.text_CD = unit_rows(23, 8, 0), unit_rows(11, 8, 1)
        self.audio_AD[20] = self.audio_AD[3]  # an exact duplicate in another shard
        self.clip_ids = [f"clip_{i:02d}" for i in range(23)]
        self.caption_ids = [f"caption_{i:02d}" for i in range(11)]
        self.clips, self.captions = str(folder / "clips"), str(folder / "captions")
        write_shards(self.clips, "clip_id", self.clip_ids, self.audio_AD, cuts)
        write_shards(self.captions, "caption_id", self.caption_ids, self.text_CD, (6,))
        pairs = np.indices((23, 11)).reshape(2, -1)
        self.similarity_AC = pair_similarity(self.audio_AD, self.text_CD, *pairs).reshape(23, 11)

    def make(self, folder: Path, k: int, **options) -> str:
        work, ledger = NeighbourShards(self.clips, self.captions, k, **options), Ledger(str(folder))
        for name in neighbour_shards(self.clips, self.captions):
            ledger.finish(*work(name))
        return str(folder)


def write_shards(folder: str, id_name, ids: list[str], rows_ND: np.ndarray, cuts: tuple[int, ...]) -> None:
    ledger, start = Ledger(folder), 0
    for number, rows in enumerate(np.split(rows_ND, cuts)):
        width = rows.shape[1] if len(rows) else 1  # as the embedding stage writes a shard without usable clips
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width)
        columns = [pa.array(ids[start : start + len(rows)], pa.string()), vectors]
        table = pa.table(columns, schema=embeddings_schema(id_name, width, {}))
        ledger.finish(DoneRecord(f"shard_{number:05d}", len(rows), {"kept": len(rows)}), {"shards": table})
        start += len(rows)


def slow_twin(similarity_QN: np.ndarray, ids: list[str], names: list[str], k: int) -> dict:
    """Every row sorted by similarity and then by position."""
    result = {}
    for name, line in zip(ids, similarity_QN.tolist(), strict=True):
        order = sorted(range(len(line)), key=lambda j: (-line[j], j))[:k]
        result[name] = [(names[j], line[j]) for j in order]
    return result


def read(folder: str, side: str) -> dict:
    tables = [storage.read_table(file) for file in Ledger(folder).files(side)]
    return {
        row[table.column_names[0]]: list(zip(row[table.column_names[1]], row["similarities"], strict=True))
        for table in tables
        for row in table.to_pylist()
    }


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool")


def test_both_tables_equal_the_slow_twin(pool: Pool, tmp_path: Path):
    folder = pool.make(tmp_path / "out", 4)
    assert read(folder, "clips") == slow_twin(pool.similarity_AC, pool.clip_ids, pool.caption_ids, 4)
    assert read(folder, "captions") == slow_twin(pool.similarity_AC.T, pool.caption_ids, pool.clip_ids, 4)
    for side in ("clips", "captions"):
        for file in Ledger(folder).files(side):
            table = storage.read_table(file)
            assert table.schema == neighbours_schema(side)
            expected = [np.mean(row) if row else 0 for row in table["similarities"].to_pylist()]
            np.testing.assert_allclose(table["mean_similarity"].to_numpy(), expected, rtol=1e-6)


def test_the_tables_do_not_depend_on_how_the_clips_are_cut(pool: Pool, tmp_path: Path):
    other = Pool(tmp_path / "other", cuts=(1, 22))
    first, second = pool.make(tmp_path / "a", 5), other.make(tmp_path / "b", 5)
    assert read(first, "clips") == read(second, "clips")
    assert read(first, "captions") == read(second, "captions")


def test_more_neighbours_than_there_are_gives_all_of_them(pool: Pool, tmp_path: Path):
    folder = pool.make(tmp_path / "out", 100)
    assert {len(row) for row in read(folder, "clips").values()} == {11}
    assert {len(row) for row in read(folder, "captions").values()} == {23}


def test_a_shard_without_usable_clips_has_an_empty_table(pool: Pool):
    record, tables = NeighbourShards(pool.clips, pool.captions, 3)("clips_shard_00001")
    assert (record.rows, dict(record.outcomes), len(tables["clips"])) == (0, {}, 0)
    assert read_embeddings(pool.clips)[1].shape == (23, 8)


def test_captions_beyond_the_exact_size_are_looked_up_in_an_index_whose_recall_is_measured_with_clips(
    pool: Pool, tmp_path: Path
):
    location = str(tmp_path / "captions.faiss")
    all_lists = NeighbourSettings(exact_up_to=5, num_lists=3, lists_per_query=3, recall_queries=10, recall_k=3)
    about = prepare_index(pool.captions, pool.clips, location, all_lists)
    assert (about["captions"], about["exact"], about["recall_queries"]) == (11, False, 9)  # 3 of each shard with rows
    found = read(pool.make(tmp_path / "out", 3, index=location), "clips")
    exact = slow_twin(pool.similarity_AC, pool.clip_ids, pool.caption_ids, 3)
    hits = [len({name for name, _ in found[key]} & {name for name, _ in exact[key]}) for key in exact]
    assert sum(hits) / (3 * len(hits)) > 0.95  # all lists are visited: only float16 is left to differ
    assert about["recall"] > 0.9

    few_lists = all_lists.model_copy(update={"lists_per_query": 1})
    poor = prepare_index(pool.captions, pool.clips, str(tmp_path / "poor.faiss"), few_lists)
    assert poor["recall"] < about["recall"]
    found = read(pool.make(tmp_path / "poor", 3, index=str(tmp_path / "poor.faiss")), "clips")
    assert {len(row) for row in found.values()} <= {0, 1, 2, 3}  # a list may hold fewer than k


def test_an_index_is_built_once(pool: Pool, tmp_path: Path):
    location = str(tmp_path / "captions.faiss")
    first = prepare_index(pool.captions, pool.clips, location, NeighbourSettings())
    storage.write_bytes(location, b"untouched")
    assert prepare_index(pool.captions, pool.clips, location, NeighbourSettings()) == first
    assert storage.read_bytes(location) == b"untouched"


def test_means_are_those_of_the_first_neighbours(pool: Pool, tmp_path: Path):
    folder = pool.make(tmp_path / "out", 5)
    best_CA = -np.sort(-pool.similarity_AC.T.astype(np.float64), axis=1)
    expected = dict(zip(pool.caption_ids, best_CA[:, :2].mean(axis=1).tolist(), strict=True))
    assert caption_means(folder, 2) == pytest.approx(expected)
    best_AC = -np.sort(-pool.similarity_AC.astype(np.float64), axis=1)[:9]
    expected = dict(zip(pool.clip_ids[:9], best_AC[:, :5].mean(axis=1).tolist(), strict=True))
    assert clip_means(folder, "shard_00000", 9) == pytest.approx(expected)  # all there are


def test_means_of_a_row_without_neighbours_are_an_error():
    rows = [
        {"clip_id": "a", "caption_ids": ["x"], "similarities": [0.5], "mean_similarity": 0.5},
        {"clip_id": "b", "caption_ids": [], "similarities": [], "mean_similarity": 0.0},
    ]
    with pytest.raises(DataError, match="clip_id b: the neighbour table has no neighbour of it"):
        mean_similarities(pa.Table.from_pylist(rows, schema=neighbours_schema("clips")), 2)
    assert mean_similarities(neighbours_schema("clips").empty_table(), 2) == {}


def test_occurrences_count_the_first_k_places(pool: Pool, tmp_path: Path):
    folder = pool.make(tmp_path / "out", 5)
    nearest = slow_twin(pool.similarity_AC, pool.clip_ids, pool.caption_ids, 2)
    names = [name for row in nearest.values() for name, _ in row]
    counts = occurrences(folder, "clips", 2)
    assert counts == {name: names.count(name) for name in set(names)}
    assert counts.total() == 2 * 23
    assert occurrences(folder, "captions", 5).total() == 5 * 11


class Scored:
    """The scored pairs of a pool above -0.2, and what `SelectShards` needs beside them."""

    def __init__(self, pool: Pool, folder: Path):
        self.pool, self.pairs = pool, str(folder / "pairs")
        scored, work = Ledger(str(folder / "scored")), MatchShards(pool.clips, pool.captions, -0.2)
        names = sorted(Ledger(pool.clips).records())
        for name in names:
            scored.finish(*work(name))
        rank_pairs(scored.folder, self.pairs, 11)
        self.clips = {}
        for name in names:
            ids = storage.read_table(Ledger(pool.clips).file_of(name))["clip_id"].to_pylist()
            self.clips[name] = str(folder / "table" / f"{name}.parquet")
            rows = [{"clip_id": key, "audio": {"bytes": None, "path": f"{key}.wav"}} for key in ids]
            storage.write_table(self.clips[name], pa.Table.from_pylist(rows, schema=CLIPS))
        rows = [{"caption_id": key, "text": key, "source": ""} for key in pool.caption_ids]
        self.captions = str(folder / "texts.parquet")
        storage.write_table(self.captions, pa.Table.from_pylist(rows, schema=CAPTIONS))

    def select(self, settings: SelectionSettings, neighbours: str | None) -> set[tuple[str, str]]:
        work = SelectShards(
            pairs=self.pairs,
            clips=self.clips,
            captions=[self.captions],
            settings=settings,
            facts=pool_facts(self.pairs, settings, None, neighbours),
            teacher="t",
            neighbours=neighbours,
        )
        return {
            (row["clip_id"], caption["caption_id"])
            for name in self.clips
            for row in work(name)[1]["shards"].to_pylist()
            for caption in row["captions"]
        }


@pytest.mark.parametrize("form", ["ratio", "distance", "csls"])
def test_margins_are_taken_over_the_neighbour_tables(pool: Pool, tmp_path: Path, form):
    neighbours, scored = pool.make(tmp_path / "out", 5), Scored(pool, tmp_path)
    threshold = {"ratio": 1.05, "distance": 0.02, "csls": 0.04}[form]
    margin = MarginSettings(form=form, num_neighbours=3, threshold=threshold)
    similarity = pool.similarity_AC.astype(np.float64)
    mean_A, mean_C = (-np.sort(-m, axis=1)[:, :3].mean(axis=1) for m in (similarity, similarity.T))
    mean_AC = (mean_A[:, None] + mean_C[None]) / 2
    score_AC = {"ratio": similarity / mean_AC, "distance": similarity - mean_AC, "csls": 2 * (similarity - mean_AC)}
    expected = np.argwhere((score_AC[form] >= threshold) & (similarity >= 0.1))
    chosen = scored.select(SelectionSettings(similarity_threshold=0.1, margin=margin), neighbours)
    assert chosen == {(pool.clip_ids[a], pool.caption_ids[c]) for a, c in expected}
    assert 5 < len(chosen) < (similarity >= 0.1).sum()
    with pytest.raises(ValueError, match="margin needs the neighbour tables"):
        scored.select(SelectionSettings(similarity_threshold=0.1, margin=margin), None)


def test_mutual_neighbours_by_ranks_are_those_of_the_tables(pool: Pool, tmp_path: Path):
    folder, scored = pool.make(tmp_path / "out", 3), Scored(pool, tmp_path)
    of_clip, of_caption = read(folder, "clips"), read(folder, "captions")
    expected = {
        (clip, caption)
        for clip, row in of_clip.items()
        for caption, similarity in row
        if clip in {name for name, _ in of_caption[caption]} and similarity >= 0.1
    }
    assert scored.select(SelectionSettings(similarity_threshold=0.1, mutual_neighbours=3), None) == expected
    assert expected


def test_the_quantile_is_the_exact_one(pool: Pool, tmp_path: Path):
    scored = Scored(pool, tmp_path)
    above = np.sort(pool.similarity_AC[pool.similarity_AC >= np.float32(-0.2)])[::-1]
    facts = pool_facts(scored.pairs, SelectionSettings(quantile=0.1), None)
    assert facts.quantile_similarity == above[int(np.ceil(0.1 * len(above))) - 1]
    assert facts.caption_neighbour_similarity == {}
