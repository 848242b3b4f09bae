"""Checks that every job makes on the driver, before Ray: where it writes, and that its sources are there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from raysem import storage
from raysem.errors import ConfigError, UserError
from raysem.models.pretrained import EncoderSource
from raysem.remote import is_remote
from raysem.runs.cluster import ClusterSettings
from raysem.runs.part_settings import PartSettings
from raysem.training.settings import TrainingSettings

LEAST_FREE_BYTES = 200 * 2**20
COMFORTABLE_FREE_BYTES = 2 * 2**30


def check_output(output: storage.Location) -> list[str]:
    """Warnings about a local output; UserError where nothing can be written to it.

    Of a store it is known by now that it answers and has the bucket; the run's lock is the first that is written.
    """
    if is_remote(output):
        storage.check_bucket(output)
        return []
    target = Path(output)
    above = next(folder for folder in (target, *target.parents) if folder.exists())
    if not above.is_dir():
        raise UserError(f"--output {output}: {above} is a file, expected a folder")
    if not os.access(above, os.W_OK):
        raise UserError(f"--output {output}: {above} cannot be written")
    free = storage.free_bytes(output) or 0
    if free < LEAST_FREE_BYTES:
        raise UserError(f"--output {output}: {free // 2**20} MiB are free, the least is {LEAST_FREE_BYTES // 2**20}")
    return [f"{output}: only {free / 2**30:.1f} GiB are free"] if free < COMFORTABLE_FREE_BYTES else []


def check_batches(trainings: Mapping[str, TrainingSettings], cluster: ClusterSettings) -> None:
    """ConfigError naming the first run, by its dotted key, whose batches the workers cannot share.

    With `training_min_workers` as many of them as there may be, up to all.
    """
    for key, training in trainings.items():
        for workers in reversed(cluster.training_world_sizes):
            parts = workers * training.accumulation
            if training.batch_size % parts == 0:
                continue
            meant = "cluster.training_workers"
            if workers < cluster.training_workers:
                meant = f"{workers} workers (cluster.training_min_workers is {cluster.training_min_workers})"
            raise ConfigError(
                f"{key}.training.batch_size: {training.batch_size} is no multiple of {meant} x accumulation = {parts}"
            )


def check_roots(corpora: PartSettings) -> None:
    """ConfigError naming the first source whose root is not there."""
    for key, sources in corpora.named_sources.items():
        for source in sources:
            if source.root and not storage.exists(source.root):
                raise ConfigError(f"corpora.{key}: root {source.root}: no such file or folder (seen from {Path.cwd()})")


def check_starts(starts: Mapping[str, EncoderSource | None]) -> None:
    """ConfigError naming the first model, by its dotted key, whose encoder starts from a file that is not there."""
    for key, start in starts.items():
        if start is not None and start.kind != "ast" and not storage.exists(start.location):
            raise ConfigError(f"{key}.model.start.location: {start.location}: no such file or folder")
