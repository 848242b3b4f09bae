"""Matching and selection over shards on Ray: the same pairs as one product of everything with everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.curation.match_shards import MatchShards
from raysem.curation.pair_shards import SelectShards, pool_facts, rank_pairs
from raysem.curation.ray_shards import make_shards, run_as_task
from raysem.curation.selection import ScoredPairs, SelectionSettings, select_pairs
from raysem.errors import DataError, StageError
from raysem.ledger import DoneRecord, Ledger
from raysem.runs.launch import own_error
from raysem.tables import CAPTIONS, CLIPS, KEPT, SCORED_PAIRS, embeddings_schema

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

FLOOR = 0.1
NUM_CLIPS, NUM_CAPTIONS, WIDTH = 90, 25, 16


def unit_vectors(count: int, seed: int) -> np.ndarray:
    vectors_ND = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


AUDIO_AD, TEXT_CD = unit_vectors(NUM_CLIPS, 0), unit_vectors(NUM_CAPTIONS, 1)
CLIP_IDS = [f"clip_{index:03d}" for index in range(NUM_CLIPS)]
CAPTION_IDS = [f"caption_{index:03d}" for index in range(NUM_CAPTIONS)]


def write_embeddings(folder: Path, id_name: Any, ids: list[str], vectors_ND: np.ndarray, rows_per_shard: int) -> str:
    """Shards as the embedding stage leaves them; the second one is empty (all of its clips were rejected)."""
    ledger = Ledger(str(folder))
    pieces = [
        (ids[s : s + rows_per_shard], vectors_ND[s : s + rows_per_shard]) for s in range(0, len(ids), rows_per_shard)
    ]
    if id_name == "clip_id":
        pieces.insert(1, ([], vectors_ND[:0]))
    schema = embeddings_schema(id_name, WIDTH, {})
    for number, (some, vectors) in enumerate(pieces):
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), WIDTH)
        table = pa.table([pa.array(some, pa.string()), column], schema=schema)
        ledger.finish(DoneRecord(f"shard_{number:05d}", len(some), {KEPT: len(some)}), {"shards": table})
    return str(folder)


def match(folder: Path, rows_per_shard: int) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    clips = write_embeddings(folder / "clips", "clip_id", CLIP_IDS, AUDIO_AD, rows_per_shard)
    captions = write_embeddings(folder / "captions", "caption_id", CAPTION_IDS, TEXT_CD, 10)
    scored, output = str(folder / "scored"), str(folder / "pairs")
    arguments = {"clips": clips, "captions": captions, "floor": FLOOR}
    counts = make_shards(sorted(Ledger(clips).records()), scored, MatchShards, arguments, what="match", workers=2)
    ranked = run_as_task(rank_pairs, scored, output, NUM_CAPTIONS)
    pairs = pa.concat_tables([storage.read_table(file) for file in Ledger(output).files()])
    return pairs, counts, ranked


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything matched, in shards of 20 clips."""
    folder = tmp_path_factory.mktemp("match")
    match(folder, 20)
    return folder


def pairs_of(folder: Path) -> pa.Table:
    return pa.concat_tables([storage.read_table(file) for file in Ledger(str(folder / "pairs")).files()])


def test_pairs_and_ranks_over_shards_equal_brute_force(pairs_folder: Path):
    similarity_AC = AUDIO_AD @ TEXT_CD.T
    pairs = pairs_of(pairs_folder)
    assert pairs.schema.equals(SCORED_PAIRS)
    found = {(row["clip_id"], row["caption_id"]): row for row in pairs.to_pylist()}
    assert len(found) == len(pairs)
    clip, caption = np.nonzero(similarity_AC >= FLOOR)
    assert set(found) == {(CLIP_IDS[a], CAPTION_IDS[c]) for a, c in zip(clip, caption, strict=True)}
    for a, c in zip(clip, caption, strict=True):
        row, value = found[CLIP_IDS[a], CAPTION_IDS[c]], similarity_AC[a, c]
        assert row["similarity"] == pytest.approx(value, abs=1e-6)
        assert row["rank_for_clip"] == 1 + (similarity_AC[a] > value).sum()
        assert row["rank_for_caption"] == 1 + (similarity_AC[:, c] > value).sum()


def test_pairs_do_not_depend_on_the_size_of_the_shards(pairs_folder: Path, tmp_path: Path):
    pairs, counts, ranked = match(tmp_path, 90)
    order = [("clip_id", "ascending"), ("rank_for_clip", "ascending")]
    expected = pairs_of(pairs_folder).sort_by(order)
    assert pairs.sort_by(order).drop_columns("similarity") == expected.drop_columns("similarity")
    difference = pairs.sort_by(order)["similarity"].to_numpy() - expected["similarity"].to_numpy()
    assert np.abs(difference).max() <= 1e-6
    matched = len(set(pairs["clip_id"].to_pylist()))
    assert counts["rows"] == sum(counts["outcomes"].values()) == NUM_CLIPS
    assert counts["outcomes"][KEPT] == matched
    assert ranked == {"pairs": len(expected), "shards": 2}


@pytest.mark.fault
def test_only_shards_without_a_sound_record_are_matched_again(pairs_folder: Path, tmp_path: Path):
    clips, captions = str(pairs_folder / "clips"), str(pairs_folder / "captions")
    names, arguments = sorted(Ledger(clips).records()), {"clips": clips, "captions": captions, "floor": FLOOR}
    make_shards(names, str(tmp_path), MatchShards, arguments, what="match", workers=2)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir()}
    contents = {name: storage.read_table(str(tmp_path / "shards" / name)) for name in before}
    (tmp_path / "shards" / "shard_00003.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "done" / "shard_00000.json").write_text('{"shard": "shard_0')
    make_shards(names, str(tmp_path), MatchShards, arguments, what="match", workers=2)
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"shard_00000.parquet", "shard_00003.parquet"}
    assert {name: storage.read_table(str(tmp_path / "shards" / name)) for name in after} == contents


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The clips and captions that the embeddings are of, in the same shards."""
    folder = tmp_path_factory.mktemp("tables")
    files = {}
    names = [CLIP_IDS[:20], [], *(CLIP_IDS[s : s + 20] for s in range(20, NUM_CLIPS, 20))]
    for number, ids in enumerate(names):
        rows = [{"clip_id": i, "audio": {"bytes": i.encode(), "path": None}, "start_seconds": 1.5} for i in ids]
        files[f"shard_{number:05d}"] = str(folder / f"shard_{number:05d}.parquet")
        storage.write_table(files[f"shard_{number:05d}"], pa.Table.from_pylist(rows, schema=CLIPS))
    texts = [{"caption_id": key, "text": f"text of {key}", "source": "test"} for key in CAPTION_IDS]
    storage.write_table(str(folder / "captions.parquet"), pa.Table.from_pylist(texts, schema=CAPTIONS))
    excluded = pa.table({"clip_id": CLIP_IDS[5:9]})
    storage.write_table(str(folder / "excluded.parquet"), excluded)
    return {
        "clips": files,
        "captions": [str(folder / "captions.parquet")],
        "excluded": str(folder / "excluded.parquet"),
        "teacher": "fingerprint",
    }


@pytest.mark.parametrize(
    "settings",
    [
        SelectionSettings(similarity_threshold=0.4),
        SelectionSettings(similarity_threshold=0.2, top_k_per_clip=2, top_k_per_caption=5),
        SelectionSettings(similarity_threshold=0.2, quantile=0.3, cap_per_caption=4),
    ],
    ids=["threshold", "ranks", "facts_of_all_shards"],
)
def test_the_improvement_set_over_shards_has_the_clips_of_one_rule_on_all_pairs(
    pairs_folder: Path, tables: dict[str, Any], tmp_path: Path, settings: SelectionSettings
):
    pairs = str(pairs_folder / "pairs")
    facts = run_as_task(pool_facts, pairs, settings, None)
    arguments = {"pairs": pairs, "settings": settings, "facts": facts, **tables}
    counts = make_shards(sorted(Ledger(pairs).records()), str(tmp_path), SelectShards, arguments, what="s", workers=2)
    found = pa.concat_tables([storage.read_table(file) for file in Ledger(str(tmp_path)).files()]).to_pylist()
    everything = pairs_of(pairs_folder)
    columns = [everything[name].to_numpy() for name in ("similarity", "rank_for_clip", "rank_for_caption")]
    keep_P = select_pairs(
        ScoredPairs(everything["clip_id"], everything["caption_id"], *columns), settings, facts
    ).keep_P
    left_out = set(CLIP_IDS[5:9])
    expected: dict[str, list[tuple[str, float]]] = {}
    for row in everything.filter(pa.array(keep_P)).to_pylist():
        if row["clip_id"] not in left_out:
            expected.setdefault(row["clip_id"], []).append((row["caption_id"], row["similarity"]))
    assert expected
    assert [row["clip_id"] for row in found] == sorted(expected)
    for row in found:
        by_similarity = sorted(expected[row["clip_id"]], key=lambda pair: -pair[1])
        assert [(c["caption_id"], c["similarity"]) for c in row["captions"]] == by_similarity
        assert all(c["text"] == f"text of {c['caption_id']}" for c in row["captions"])
        assert row["audio"]["bytes"] == row["clip_id"].encode()
        assert (row["start_seconds"], row["duration_seconds"]) == (1.5, None)
        assert (row["strategy"], row["teacher"]) == ("DU", "fingerprint")
    assert counts["rows"] == len(found)
    assert counts["outcomes"]["pairs_kept"] == sum(map(len, expected.values()))
    assert counts["outcomes"]["pairs_kept"] + counts["outcomes"]["pairs_left"] == len(everything)


class Failing:
    """Shard work that fails in the way it is told."""

    def __init__(self, how: str):
        self._how = how

    def __call__(self, shard: str) -> tuple[DoneRecord, dict[str, pa.Table]]:
        if shard == "b":
            if self._how == "data":
                raise DataError("table b: no column 'clip_id'")
            if self._how == "silent":
                shard = "c"
        table = pa.table({"shard": [shard]})
        return DoneRecord(shard, 1, {KEPT: 1}), {"shards": table}


def test_an_error_in_a_shard_arrives_as_ours_and_the_others_are_kept(tmp_path: Path):
    with pytest.raises(Exception, match="no column 'clip_id'") as caught:
        make_shards(["a", "b"], str(tmp_path), Failing, {"how": "data"}, what="fail", workers=1)
    found = own_error(caught.value)
    assert type(found) is DataError
    assert str(found) == "table b: no column 'clip_id'"
    make_shards(["a", "b"], str(tmp_path), Failing, {"how": "not at all"}, what="fail", workers=1)
    assert sorted(Ledger(str(tmp_path)).records()) == ["a", "b"]


@pytest.mark.fault
def test_a_shard_that_never_comes_is_named(tmp_path: Path):
    with pytest.raises(StageError, match="1 shards stay unfinished after 3 rounds, b first"):
        make_shards(["a", "b"], str(tmp_path), Failing, {"how": "silent"}, what="fail", workers=1)


def raise_ours() -> None:
    raise StageError("neighbours: too few clips")


def test_an_error_in_a_task_arrives_as_ours():
    with pytest.raises(StageError) as caught:
        run_as_task(raise_ours)
    found = own_error(caught.value)
    assert type(found) is StageError
    assert str(found) == "neighbours: too few clips"


def process_id() -> int:
    return os.getpid()


def test_a_task_runs_in_another_process():
    assert run_as_task(process_id) != os.getpid()
