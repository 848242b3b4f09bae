"""Checks of `curate_and_train` on the driver, before Ray: paths, resources, and what the work will take of them.

The columns of csv and Parquet files are checked by the corpora stages, which run before Ray starts, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from raysem import storage
from raysem.errors import ConfigError, UserError
from raysem.models.checkpoint import read_config
from raysem.runs.cluster import check_workers
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.preflight import check_batches, check_output, check_roots
from raysem.runs.resource_estimate import estimate
from raysem.runs.resource_facts import Facts
from raysem.stages import Stage, done_record

log = logging.getLogger(__name__)


def check(recipe: CurateAndTrainRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Raise for what cannot work, return warnings for what may not.

    Raises:
        UserError: a path that is not there, a disk that is full, a setting that cannot be met.
    """
    warnings = check_output(output)
    check_roots(recipe.corpora)
    _check_models(recipe)
    check_batches(_trainings(recipe), recipe.cluster)
    if all(done_record(stage, output) is not None for stage in chosen):
        return []
    check_workers(recipe.cluster)
    return warnings


def check_resources(recipe: CurateAndTrainRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Estimate what is left to do, once the corpora are read: log it, return warnings.

    Raises:
        UserError: it cannot fit; the message begins with the key to change.
    """
    facts = Facts(recipe, output, chosen)
    found = estimate(facts.work(), facts.machine())
    if found.refusals:
        raise UserError("; ".join(found.refusals))
    for line in found.lines:
        log.info("estimate, %s", line)
    return found.warnings


def _check_models(recipe: CurateAndTrainRecipe) -> None:
    teacher = recipe.teacher
    files = {"teacher.model.audio_weights": teacher.model.audio_weights}
    if teacher.kind in ("raysem", "clap2022"):
        files["teacher.location"] = teacher.location
    for key, location in files.items():
        if location and not storage.exists(location):
            raise ConfigError(f"{key}: {location}: no such file or folder")
    if teacher.kind == "raysem":
        try:
            read_config(teacher.location)
        except UserError as error:
            raise ConfigError(f"teacher.location: {error}") from None


def _trainings(recipe: CurateAndTrainRecipe) -> dict:
    named = "variants.{}.student" if recipe.variants else "student"
    found = {named.format(name): student.student.training for name, student in recipe.students().items()}
    if recipe.teacher.kind == "train":
        found["teacher"] = recipe.teacher.training
    return found
