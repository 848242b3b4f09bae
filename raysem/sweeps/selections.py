"""The curated set of a trial: which stage selects it, by which rule, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from raysem import config, storage
from raysem.curation.selection import PoolFacts, SelectionSettings
from raysem.errors import ConfigError
from raysem.runs import curation_facts
from raysem.stages import Stage
from raysem.sweeps.curated import CuratedCounts, LabelJudge, count_improvement_set, count_rules

_PAIRS_PLACE = 1  # of a student's inputs: teacher, pairs, held_out, replay


@dataclass(frozen=True)
class SelectionInputs:
    """The folders of the stages that a selection reads; those that it does not read are None."""

    match: storage.Location
    captions: storage.Location
    wild: storage.Location
    domain: storage.Location | None
    screen: storage.Location | None
    neighbours: storage.Location | None


def selection_stage(student: Stage) -> Stage | None:
    """The selection whose pairs the student of a stage trains on; None: it trains on the teacher's."""
    stage = student.inputs[_PAIRS_PLACE] if len(student.inputs) > _PAIRS_PLACE else None
    return stage if stage is not None and stage.name.startswith("select/") else None


def rule_of(selection: Stage) -> SelectionSettings:
    """The rule of a stage that selects."""
    return SelectionSettings(
        **{name: value for name, value in selection.settings.items() if name in SelectionSettings.model_fields}
    )


def scored_selection(student: Stage) -> Stage:
    """The selection of a trial that only selects.

    Raises:
        ConfigError: its pairs have no scores, or nothing is selected.
    """
    stage = selection_stage(student)
    if stage is None:
        raise ConfigError("student.train_on: teacher_pairs selects nothing, and the metric is one of the curated set")
    if rule_of(stage).strategy == "DS":
        raise ConfigError("curation.strategy: DS keeps annotated pairs without a score; take a held-out metric for it")
    return stage


def inputs_of(selection: Stage, output: storage.Location) -> SelectionInputs:
    """Where a scored selection reads."""
    folders = {stage.name.split("/")[0]: stage.folder(output) for stage in selection.inputs}
    return SelectionInputs(
        match=folders["match"],
        captions=folders["captions"],
        wild=folders["corpora"],
        domain=folders.get("domain"),
        screen=folders.get("screen"),
        neighbours=folders.get("neighbours"),
    )


def count_selections(inputs: SelectionInputs, rules: Sequence[SelectionSettings]) -> list[CuratedCounts]:
    """What each rule would keep: one pass over the stored pairs."""
    return count_rules(
        inputs.match,
        rules,
        partial(_facts, inputs),
        judge=LabelJudge(inputs.captions, inputs.wild),
        excluded=storage.join(inputs.screen, "rejects.parquet") if inputs.screen else None,
        neighbours=inputs.neighbours,
    )


def _facts(inputs: SelectionInputs, rule: SelectionSettings) -> PoolFacts:
    return curation_facts.facts_for(inputs.match, rule, inputs.domain, inputs.neighbours)


def curated_facts(student: Stage, output: storage.Location) -> dict[str, float | None]:
    """The numbers of the set that a finished selection has left for a student; empty where it trains on none."""
    stage = selection_stage(student)
    if stage is None:
        return {}
    if rule_of(stage).strategy == "DS":  # its pairs have no cosine of clip and caption, and nobody doubts them
        counts = count_improvement_set(stage.folder(output), None)
        return {"pairs": counts.pairs, "clips": counts.clips}
    inputs = inputs_of(stage, output)
    found = count_improvement_set(stage.folder(output), LabelJudge(inputs.captions, inputs.wild)).to_json()
    return {name: value for name, value in found.items() if value is not None}


def group_key(selection: Stage) -> str:
    """Equal for selections that read the same stages, whose rules one pass can count."""
    return config.digest(sorted((stage.name, stage.digest) for stage in selection.inputs))
