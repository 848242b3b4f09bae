from __future__ import annotations

from typing import Any

import pytest

from raysem import config
from raysem.errors import ConfigError
from raysem.runs.curate_and_train import JOB
from raysem.runs.curation_recipe import CurateAndTrainRecipe, CurationSettings
from raysem.runs.launch import RECIPES

WILD = {"corpora": {"wild": [{"corpus": "clips_table", "root": "/wild"}]}}


def recipe(**changes: Any) -> CurateAndTrainRecipe:
    return config.build(CurateAndTrainRecipe, config.with_overrides(WILD, changes.items()))


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        recipe(**changes).students()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "path", sorted(set(RECIPES.glob("*.yaml")) - set(RECIPES.glob("s*_quickstart.yaml"))), ids=lambda path: path.stem
)
def test_every_recipe_in_the_repository_is_valid_and_reads_back_as_itself(path: Any):
    text = path.read_text()
    if "JOB" in text:
        pytest.skip("of another job")
    loaded = config.load_recipe(JOB.recipe_type, path)
    assert config.build(CurateAndTrainRecipe, config.read_yaml(config.to_yaml(loaded), "again")) == loaded
    assert loaded.students()


def test_without_variants_there_is_one_student_as_the_recipe_says():
    students = recipe(**{"student.training": {"steps": 7}}).students()
    assert list(students) == ["student"]
    assert students["student"].student.training.steps == 7


def test_a_variant_changes_the_keys_it_names_and_no_others():
    variants = {"DU": {}, "short": {"student.training": {"steps": 5}, "curation.similarity_threshold": "6e-1"}}
    students = recipe(
        variants=variants, **{"student.training": {"steps": 7, "batch_size": 16}, "curation.top_k_per_clip": 2}
    ).students()
    assert students["DU"].student.training.steps == 7
    short = students["short"]
    assert (short.student.training.steps, short.student.training.batch_size) == (5, 16)
    assert (short.curation.similarity_threshold, short.curation.top_k_per_clip) == (0.6, 2)
    assert all(student.variants == {} for student in students.values())


@pytest.mark.parametrize("key", ["seed", "teacher.kind", "student", "curation", "corpora.rows_per_shard", "audio.x"])
def test_a_variant_may_not_touch_what_all_share(key: str):
    assert f"variants: a: {key} is shared by all variants" in refused(variants={"a": {key: 1}})


@pytest.mark.parametrize(
    "field",
    ["embed", "match_floor", "neighbours", "exclude_overlap_similarity", "duplicate_similarity", "materialize_audio"],
)
def test_a_variant_may_not_set_a_part_of_curation_that_is_done_once(field: str):
    assert field in CurationSettings.model_fields
    assert "is shared by all variants" in refused(variants={"a": {f"curation.{field}": None}})


def test_a_variants_wrong_key_is_found_before_anything_runs():
    text = refused(variants={"a": {"student.trainin.steps": 3}})
    assert text.startswith("variants.a: student.trainin: no such key (did you mean training?)")
    assert "variants.a: curation.quantile: expected" in refused(variants={"a": {"curation.quantile": 2}})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", ".a", "teacher"])
def test_names_of_variants_are_names_of_folders(name: str):
    assert "variants: " in refused(variants={name: {}})


@pytest.mark.parametrize("name", ["", "../x", "a/b", "wild", "match"])
def test_names_of_evaluation_sets_are_names_of_folders(name: str):
    assert "corpora.evaluation: " in refused(**{"corpora.evaluation": {name: {"corpus": "clips_table", "root": "/x"}}})


def test_the_floor_of_stored_pairs_does_not_follow_the_thresholds():
    assert recipe(**{"curation.similarity_threshold": 0.6}).lowest_threshold() == 0.5
    assert recipe(**{"curation.similarity_threshold": 0.9}).lowest_threshold() == 0.5
    assert recipe(**{"curation.match_floor": 0.1}).lowest_threshold() == 0.1


def test_a_variants_threshold_below_the_floor_is_refused_by_its_name():
    changed = recipe(variants={"low": {"curation.similarity_threshold": 0.3}, "b": {}})
    with pytest.raises(ConfigError, match=r"match_floor: 0\.5 is above the threshold 0\.3 of low"):
        changed.lowest_threshold()


def test_a_floor_above_the_threshold_is_refused():
    changed = recipe(**{"curation.match_floor": 0.8, "curation.similarity_threshold": 0.7})
    with pytest.raises(ConfigError, match=r"curation\.match_floor: 0\.8 is above the threshold 0\.7"):
        changed.lowest_threshold()


def test_a_loaded_teacher_needs_its_location():
    assert "teacher: location: is needed with kind clap2022" in refused(**{"teacher.kind": "clap2022"})


def test_a_pool_is_needed():
    with pytest.raises(ConfigError, match=r"corpora\.wild"):
        config.build(CurateAndTrainRecipe, {"corpora": {"wild": []}})
    with pytest.raises(ConfigError, match="corpora: is missing and has no default"):
        config.build(CurateAndTrainRecipe, {})
