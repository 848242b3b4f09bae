"""The folds of a cross-validation as parts of its corpora: no clip in two of them, every clip in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysem import config, storage
from raysem.errors import DataError
from raysem.runs import roles
from raysem.runs.classification_folds import fold_sources, part_name
from raysem.runs.classification_recipe import ClassificationRecipe

WritePart = Callable[..., str]
NUM_CLIPS = 300


@pytest.fixture
def table(tmp_path: Path, write_part: WritePart) -> str:
    """300 clips of 100 recordings, in five folds."""
    rows = [{"clip_id": f"rec{n // 3:02d}-{n}", "labels": ["Rain"], "fold": n // 3 % 5 + 1} for n in range(NUM_CLIPS)]
    return write_part(tmp_path / "table", rows, rows_per_shard=1000)


def recipe(table: str, folds: dict[str, Any], *, seed: int = 0, **source: Any) -> ClassificationRecipe:
    clips = [{"corpus": "clips_table", "root": table, **source}]
    return config.build(ClassificationRecipe, {"seed": seed, "corpora": {"clips": clips}, "folds": folds})


def built(recipe: ClassificationRecipe, folder: Path) -> dict[str, set[str]]:
    """The clips of every part."""
    found = {}
    for name, sources in fold_sources(recipe).items():
        where = str(folder / name)
        roles.build_part(where, sources, seed=recipe.seed, rows_per_shard=1000, hide_labels=False)
        rows = [storage.read_table(file, ["clip_id"])["clip_id"].to_pylist() for file in roles.clip_shards(where)]
        found[name] = {clip_id for ids in rows for clip_id in ids}
    return found


def all_of(table: str) -> set[str]:
    return {
        name
        for file in roles.clip_shards(table)
        for name in storage.read_table(file, ["clip_id"])["clip_id"].to_pylist()
    }


FOLDS = [
    {"official": [1, 2, 3, 4, 5]},
    {"official": [1, 2, 3, 4, 5], "held_out_share": 0.25},
    {"drawn": 3},
    {"drawn": 7, "held_out_share": 0.25},
]


@pytest.mark.parametrize("folds", FOLDS, ids=str)
def test_the_parts_of_all_folds_hold_every_clip_once(folds: dict[str, Any], table: str, tmp_path: Path):
    parts = built(recipe(table, folds), tmp_path)
    numbers = folds.get("official") or range(1, folds["drawn"] + 1)
    held_out = [part_name(number, held_out=True) for number in numbers] if "held_out_share" in folds else []
    assert set(parts) == {*(part_name(number) for number in numbers), *held_out}
    assert sum(map(len, parts.values())) == NUM_CLIPS
    assert set.union(*parts.values()) == all_of(table)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_an_official_fold_has_the_clips_of_its_number_whatever_is_held_out(share: float, table: str, tmp_path: Path):
    parts = built(recipe(table, {"official": [1, 2, 3, 4, 5], "held_out_share": share}), tmp_path)
    for number in range(1, 6):
        own = parts[part_name(number)] | parts.get(part_name(number, held_out=True), set())
        assert {int(clip_id.split("-")[1]) // 3 % 5 + 1 for clip_id in own} == {number}


@pytest.mark.parametrize("folds", [FOLDS[1], {"drawn": 3, "held_out_share": 0.25}], ids=str)
def test_a_quarter_of_each_fold_is_held_out_and_folds_are_of_a_size(folds: dict[str, Any], table: str, tmp_path: Path):
    """Within four standard deviations of a binomial draw."""
    parts = built(recipe(table, folds), tmp_path)
    number = len(folds.get("official", range(folds.get("drawn", 0))))
    for name, clips in parts.items():
        share = (0.25 if name.endswith("held_out") else 0.75) / number
        assert abs(len(clips) - NUM_CLIPS * share) < 4 * (NUM_CLIPS * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("folds", FOLDS[1:], ids=str)
def test_what_the_pattern_finds_stays_together(folds: dict[str, Any], table: str, tmp_path: Path):
    def recordings(parts: dict[str, set[str]]) -> list[str]:
        return [name for clips in parts.values() for name in {clip_id.split("-")[0] for clip_id in clips}]

    together = recordings(built(recipe(table, folds, group_pattern=r"^(rec\d+)-"), tmp_path / "together"))
    assert len(together) == len(set(together)) == 100
    apart = recordings(built(recipe(table, folds), tmp_path / "apart"))
    assert len(apart) > 100


@pytest.mark.parametrize("folds", FOLDS, ids=str)
def test_a_source_s_own_share_is_cut_and_not_left(folds: dict[str, Any], table: str, tmp_path: Path):
    parts = built(recipe(table, folds, share=[0.2, 0.7]), tmp_path)
    wanted = {clip_id for clip_id in all_of(table) if 0.2 <= roles.place_of(0, clip_id) < 0.7}
    assert set.union(*parts.values()) == wanted
    assert sum(map(len, parts.values())) == len(wanted) < NUM_CLIPS


def test_another_seed_draws_other_folds_and_leaves_official_ones(table: str, tmp_path: Path):
    drawn = [built(recipe(table, {"drawn": 3}, seed=seed), tmp_path / f"drawn{seed}") for seed in (0, 1)]
    assert drawn[0]["fold1/clips"] != drawn[1]["fold1/clips"]
    official = {"official": [1, 2, 3, 4, 5]}
    found = [built(recipe(table, official, seed=seed), tmp_path / f"official{seed}") for seed in (0, 1)]
    assert found[0] == found[1]


def test_testing_one_fold_cuts_the_same_parts(table: str):
    folds = {"official": [1, 2, 3, 4, 5], "held_out_share": 0.1}
    assert fold_sources(recipe(table, folds)) == fold_sources(recipe(table, folds | {"test": [2]}))


def test_a_corpus_without_folds_is_named_with_what_it_lacks(tmp_path: Path, write_part: WritePart):
    root = write_part(tmp_path / "unfolded", [{"clip_id": "a", "labels": ["Rain"]}])
    with pytest.raises(DataError) as error:
        built(recipe(root, {"official": [1, 2]}), tmp_path)
    assert str(error.value) == f"clips_table {root}: no clip is in fold 1: its clips have none (column fold)"


def test_a_fold_that_no_clip_has_is_told_those_that_there_are(table: str, tmp_path: Path):
    with pytest.raises(DataError) as error:
        built(recipe(table, {"official": [1, 7]}), tmp_path)
    assert str(error.value) == f"clips_table {table}: no clip is in fold 7: its clips are in folds 1, 2, 3, 4, 5"
