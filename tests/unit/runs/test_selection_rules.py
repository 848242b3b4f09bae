from __future__ import annotations

from typing import Any

import pytest

from raysem import config
from raysem.curation.selection import SelectionSettings
from raysem.errors import ConfigError, DataError
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.selection_rules import (
    ds_of,
    improvement_set_counts,
    listening_rules,
    replay_source,
    selection_key,
    selection_name,
    selection_of,
    selections_needed,
)
from raysem.stages import Stage

WILD = {"corpora": {"wild": [{"corpus": "clips_table", "root": "/wild"}]}}


def recipe(**changes: Any) -> CurateAndTrainRecipe:
    return config.build(CurateAndTrainRecipe, config.with_overrides(WILD, changes.items()))


def test_a_rule_has_nothing_of_the_stages_before_it():
    changed = recipe(**{"curation.similarity_threshold": 0.6, "curation.match_floor": 0.3, "curation.neighbours": 3})
    assert selection_of(changed) == SelectionSettings(similarity_threshold=0.6)


def test_released_thresholds_take_the_place_of_those_of_the_recipe():
    changed = recipe(**{"curation.released_thresholds": "esc50", "curation.similarity_threshold": 0.1})
    assert selection_of(changed).similarity_threshold > 0.5


def test_ds_has_only_its_threshold_so_that_equal_rules_are_one_stage():
    one = recipe(**{"curation.strategy": "DS", "curation.caption_threshold": 0.6, "curation.similarity_threshold": 0.9})
    other = recipe(**{"curation.strategy": "ADS", "curation.caption_threshold": 0.6, "curation.top_k_per_clip": 2})
    assert selection_of(one) == ds_of(selection_of(other)) == SelectionSettings(strategy="DS", caption_threshold=0.6)
    with pytest.raises(ConfigError, match="cap_per_caption: not with strategy DS"):
        selection_of(recipe(**{"curation.strategy": "DS", "curation.cap_per_caption": 3}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"curation.strategy": "DU"}, "teacher"),
        ({"curation.strategy": "DS"}, "none"),
        ({"curation.strategy": "ADS"}, "ds"),
        ({"curation.strategy": "ADS", "student.train_on": "teacher_pairs"}, "none"),
        ({"curation.strategy": "DS", "student.replay_from": "teacher"}, "teacher"),
    ],
)
def test_what_is_replayed_follows_the_strategy_unless_it_is_said(changes: dict[str, Any], expected: str):
    assert replay_source(recipe(**changes)) == expected


def test_a_student_needs_the_rules_that_it_trains_on_and_replays():
    ads = {"curation.strategy": "ADS"}
    assert [rule.strategy for rule in selections_needed(recipe(**ads))] == ["ADS"]
    replaying = ads | {"student.objective.replay_probability": 0.5}
    assert [rule.strategy for rule in selections_needed(recipe(**replaying))] == ["ADS", "DS"]
    control = replaying | {"student.train_on": "teacher_pairs"}
    assert selections_needed(recipe(**control)) == []


def test_rules_are_one_only_with_the_same_domain():
    rule = SelectionSettings(strategy="ADS")
    domains = [Stage("domain", lambda folder: {}, settings=number) for number in (1, 2)]
    keys = {selection_key(rule, None), *(selection_key(rule, domain) for domain in domains)}
    assert len(keys) == 3
    assert selection_key(SelectionSettings(strategy="ADS"), domains[0]) in keys


def test_a_selection_is_named_by_its_strategy_and_threshold():
    assert selection_name(SelectionSettings(similarity_threshold=0.7)) == "select/DU_0.7"
    assert selection_name(SelectionSettings(strategy="DS", caption_threshold=0.65)) == "select/DS_0.65"


def test_a_selection_without_a_pair_stops_the_job():
    counts = {"rows": 2, "outcomes": {"pairs_kept": 3, "pairs_left": 1}}
    assert improvement_set_counts(counts, "select/DU_0.7") == counts | {"clips": 2, "pairs": 3}
    with pytest.raises(DataError, match=r"select/DU_0\.7: no pair passes the rule, of 4 above the floor"):
        improvement_set_counts({"rows": 0, "outcomes": {"pairs_left": 4}}, "select/DU_0.7")


def test_the_report_plays_the_pairs_of_the_recipes_own_rule_before_those_of_variants_and_none_of_ds():
    own = {"similarity_threshold": 0.7, "match_floor": 0.5}
    laxer = {"lax": {"curation.similarity_threshold": 0.55}, "DU": {}}
    found = listening_rules(recipe(curation=own, variants=laxer))
    assert [rule.similarity_threshold for _, rule in found] == [0.7, 0.55, 0.7]
    annotated = recipe(curation=own | {"strategy": "DS"}, variants={"ADS": {"curation.strategy": "ADS"}})
    assert [rule.strategy for _, rule in listening_rules(annotated)] == ["ADS"]
    assert listening_rules(recipe(curation=own | {"strategy": "DS"})) == []
