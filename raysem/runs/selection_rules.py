"""Which rules a recipe's students ask for: what they train on, what they replay, and when two rules are one."""

from __future__ import annotations

from typing import Any

from raysem import config
from raysem.config import plain
from raysem.curation.selection import SelectionSettings, with_domain_thresholds
from raysem.errors import ConfigError, DataError
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.stages import Stage


def selection_of(recipe: CurateAndTrainRecipe) -> SelectionSettings:
    """The rule of `curation`, without the settings of other stages, with released thresholds where asked for."""
    fields = set(SelectionSettings.model_fields)
    values = {name: value for name, value in plain(recipe.curation).items() if name in fields}
    settings = SelectionSettings(**values)
    if recipe.curation.released_thresholds:
        settings = with_domain_thresholds(settings, recipe.curation.released_thresholds)
    if settings.strategy != "DS":
        return settings
    if settings.cap_per_caption is not None:
        raise ConfigError("curation.cap_per_caption: not with strategy DS, which keeps annotated pairs as they are")
    return ds_of(settings)


def ds_of(settings: SelectionSettings) -> SelectionSettings:
    """The DS rule of `settings`; what DS does not use is left at its default, so that equal rules are one stage."""
    return SelectionSettings(strategy="DS", caption_threshold=settings.caption_threshold)


def replay_source(student: CurateAndTrainRecipe) -> str:
    """What a student replays: `teacher`, `ds` or `none`."""
    asked = student.student.replay_from
    if asked != "auto":
        return asked
    if student.student.train_on == "teacher_pairs" or student.curation.strategy == "DS":
        return "none"
    return "ds" if student.curation.strategy == "ADS" else "teacher"


def selections_needed(student: CurateAndTrainRecipe) -> list[SelectionSettings]:
    """The rules whose pairs a student trains on or replays."""
    chosen = selection_of(student)
    needed = [chosen] if student.student.train_on == "improvement_set" else []
    if student.student.objective.replay_probability > 0 and replay_source(student) == "ds":
        needed.append(ds_of(chosen))
    return needed


def selection_key(settings: SelectionSettings, domain: Stage | None) -> str:
    """Equal for rules that keep the same pairs."""
    return config.digest({"rule": plain(settings), "domain": domain.digest if domain else None})


def selection_name(settings: SelectionSettings) -> str:
    """The rule's stage by strategy and threshold; rules that differ elsewhere need more to tell them apart."""
    return f"select/{settings.strategy}_{threshold_of(plain(settings)):g}"


def threshold_of(settings: dict[str, Any]) -> float:
    """The threshold that a rule is named after, from its plain settings."""
    return settings["caption_threshold" if settings["strategy"] == "DS" else "similarity_threshold"]


def listening_rules(recipe: CurateAndTrainRecipe) -> list[tuple[CurateAndTrainRecipe, SelectionSettings]]:
    """Rules that match clips with captions, whose pairs the report may play: the recipe's own, then its variants'.

    Each comes with the recipe that it is of.
    """
    rules = [(student, selection_of(student)) for student in (recipe, *recipe.students().values())]
    return [(student, rule) for student, rule in rules if rule.strategy != "DS"]


def improvement_set_counts(counts: dict[str, Any], name: str) -> dict[str, Any]:
    """The counts of a selection's stage, with clips and pairs by name.

    Raises:
        DataError: no pair is left.
    """
    outcomes = counts["outcomes"]
    pairs = outcomes.get("pairs_kept", 0)
    if not pairs:
        raise DataError(
            f"{name}: no pair passes the rule, of {outcomes.get('pairs_left', 0)} above the floor; lower the threshold"
        )
    return counts | {"clips": counts["rows"], "pairs": pairs}
