"""Checks of `curate_and_train` on the driver, before Ray: paths, resources, and what the work will take of them.

The columns of csv and Parquet files are checked by the corpora stages, which run before Ray starts, too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from raysem import storage
from raysem.errors import ConfigError, UserError
from raysem.models.checkpoint import read_config
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.resource_estimate import estimate
from raysem.runs.resource_facts import Facts, is_elsewhere, local_cpus
from raysem.stages import Stage, done_record

log = logging.getLogger(__name__)

LEAST_FREE_BYTES = 200 * 2**20
COMFORTABLE_FREE_BYTES = 2 * 2**30


def check(recipe: CurateAndTrainRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Raise for what cannot work, return warnings for what may not.

    Raises:
        UserError: a path that is not there, a disk that is full, a setting that cannot be met.
    """
    warnings = []
    if not storage.is_remote(output):
        target = Path(output)
        above = next(folder for folder in (target, *target.parents) if folder.exists())
        if not above.is_dir():
            raise UserError(f"--output {output}: {above} is a file, expected a folder")
        if not os.access(above, os.W_OK):
            raise UserError(f"--output {output}: {above} cannot be written")
        free = storage.free_bytes(output) or 0
        if free < LEAST_FREE_BYTES:
            raise UserError(
                f"--output {output}: {free // 2**20} MiB are free, the least is {LEAST_FREE_BYTES // 2**20}"
            )
        if free < COMFORTABLE_FREE_BYTES:
            warnings.append(f"{output}: only {free / 2**30:.1f} GiB are free")
    _check_roots(recipe)
    _check_models(recipe)
    workers = recipe.cluster.training_workers
    for name, training in _trainings(recipe).items():
        parts = workers * training.accumulation
        if training.batch_size % parts:
            raise ConfigError(
                f"{name}.training.batch_size: {training.batch_size} is no multiple of "
                f"cluster.training_workers x accumulation = {parts}"
            )
    return warnings + _gpus(recipe) if any(done_record(stage, output) is None for stage in chosen) else []


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


def _check_roots(recipe: CurateAndTrainRecipe) -> None:
    corpora = recipe.corpora
    named = {f"corpora.evaluation.{name}": (source,) for name, source in corpora.evaluation.items()}
    for part in ("teacher", "held_out", "wild", "captions"):
        named[f"corpora.{part}"] = getattr(corpora, part)
    for key, sources in named.items():
        for source in sources:
            if source.root and not storage.exists(source.root):
                raise ConfigError(f"{key}: root {source.root}: no such file or folder (seen from {Path.cwd()})")


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


def _gpus(recipe: CurateAndTrainRecipe) -> list[str]:
    """On a Ray of this machine, GPUs asked for must be here; a cluster may still grow."""
    cluster = recipe.cluster
    if is_elsewhere(recipe):
        return []
    import torch

    there = torch.cuda.device_count()
    asked = float(cluster.training_workers if cluster.training_on_gpus else 0)
    per_embedder = cluster.embedding.gpus_per_worker or 0
    asked = max(asked, per_embedder * (cluster.embedding.embed_workers or 1))
    if asked > there:
        raise ConfigError(f"cluster: {asked:g} GPUs are asked for, this machine has {there}")
    cores = local_cpus(recipe)
    if cluster.training_workers * cluster.training_cpus_per_worker > cores:
        raise ConfigError(
            f"cluster.training_workers: {cluster.training_workers} x {cluster.training_cpus_per_worker:g} CPUs are "
            f"asked for, a local Ray has {cores} (cluster.training_cpus_per_worker may be a fraction)"
        )
    return []
