"""Checks of `train_spa` on the driver, before Ray."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from raysem import storage
from raysem.errors import ConfigError, UserError
from raysem.ontology.tag_classes import TagClasses
from raysem.runs.class_table import CLASSES
from raysem.runs.cluster import check_workers
from raysem.runs.preflight import check_batches, check_output, check_roots, check_starts
from raysem.runs.resource_estimate import Training, Work, estimate
from raysem.runs.resource_facts import MIB, bytes_of, machine_of
from raysem.runs.roles import clip_shards
from raysem.runs.tagging_recipe import TaggerTrainingSettings, TaggingRecipe
from raysem.stages import Stage, done_record

log = logging.getLogger(__name__)


def check(recipe: TaggingRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Raise for what cannot work, return warnings for what may not.

    Raises:
        UserError: a path that is not there, a disk that is full, a setting that cannot be met.
    """
    warnings = check_output(output)
    check_roots(recipe.corpora)
    taggers = _by_key(recipe)
    for key, tagger in taggers.items():
        if tagger.training.schedule.kind == "plateau" and not recipe.corpora.held_out:
            raise ConfigError(f"{key}.training.schedule.kind: plateau is seen on held-out clips; give corpora.held_out")
    check_starts({key: tagger.model.start for key, tagger in taggers.items()})
    check_batches({key: tagger.training for key, tagger in taggers.items()}, recipe.cluster)
    if all(done_record(stage, output) is not None for stage in chosen):
        return []
    check_workers(recipe.cluster)
    return warnings


def _by_key(recipe: TaggingRecipe) -> dict[str, TaggerTrainingSettings]:
    """The taggers by the dotted key of their settings."""
    named = "variants.{}.tagger" if recipe.variants else "tagger"
    return {named.format(name): tagger for name, tagger in recipe.taggers().items()}


def check_resources(recipe: TaggingRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Check the labels and estimate what training is left to do, once the corpora are read; returns warnings.

    Raises:
        UserError: a label is none of the classes, or the work cannot fit; the message begins with what to change.
    """
    _check_labels(output, chosen)
    found = estimate(Work.of_trainings(_trainings(recipe, output, chosen)), machine_of(recipe.cluster, output))
    if found.refusals:
        raise UserError("; ".join(found.refusals))
    for line in found.lines:
        log.info("estimate, %s", line)
    return found.warnings


def _check_labels(output: storage.Location, chosen: Sequence[Stage]) -> None:
    """DataError naming the part that has a label which is none of the classes."""
    by_name = {stage.name: stage for stage in chosen}
    if CLASSES not in by_name:
        return
    classes = TagClasses.read(by_name[CLASSES].folder(output))
    for name, stage in by_name.items():
        if name.startswith("corpora/") and name != "corpora/synthetic":
            for file in clip_shards(stage.folder(output)):
                labels = storage.read_table(file, ["labels"])["labels"].to_pylist()
                classes.targets([found or () for found in labels], where=name.replace("/", ".", 2))


def _trainings(recipe: TaggingRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[Training]:
    """The taggers that are left to train."""
    taggers, found = recipe.taggers(), []
    for stage in chosen:
        name = stage.name.removeprefix("tagger/")
        if name == stage.name or done_record(stage, output) is not None:
            continue
        settings, parts = taggers[name], [part for part in stage.inputs if part.name.startswith("corpora/")]
        design, training = settings.model.design, settings.training
        found.append(
            Training(
                name=f"variants.{name}.tagger" if recipe.variants else "tagger",
                workers=recipe.cluster.training_workers,
                clips=sum((done_record(part, output) or {"summary": {}})["summary"].get("clips", 0) for part in parts),
                crop_samples=round(design.crop_seconds * design.front_end.sample_rate),
                cache_bytes=training.cache_mib * MIB,
                table_bytes=sum(min(training.table_memory_mib * MIB, bytes_of(part, output)) for part in parts),
            )
        )
    return found
