"""What a job asks of Ray, and what is known of the machine or cluster before it starts."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from raysem.config import Settings
from raysem.curation.ray_stages import WorkerSettings
from raysem.errors import ConfigError, UserError
from raysem.runs.store import StoreSettings

REACHABLE_SECONDS = 10.0


class ClusterSettings(Settings):
    """What the job asks of Ray."""

    address: str | None = None
    """Address of a running cluster; null: RAY_ADDRESS, else a local Ray."""
    local_cpus: PositiveInt | None = None
    """CPUs of a local Ray; null: the cores of this machine."""
    object_store_mib: PositiveInt | None = 512
    """Object store of a local Ray."""
    storage: StoreSettings = StoreSettings()
    """Where s3:// is."""
    embedding: WorkerSettings = WorkerSettings()
    training_workers: PositiveInt = 1
    training_min_workers: PositiveInt | None = None
    """Training begins and goes on with as few workers as this where the cluster has no room for `training_workers`, and
    takes more as machines come; null: no fewer. The batches are the same ones, shared by those that are there."""
    training_max_failures: NonNegativeInt = 2
    """Groups of workers that may die, by a lost machine too, in one training run of this driver; the next group goes on
    from the last checkpoint. A machine whose loss was announced counts for nothing."""
    training_cpus_per_worker: float = Field(1.0, gt=0)
    training_on_gpus: bool | None = None
    """One GPU for each training worker; null: where the cluster has GPUs."""

    trainings_at_once: PositiveInt | None = None
    """Training runs of one recipe side by side, such as the folds of a cross-validation; null: on a Ray of this machine
    one after the other, on a cluster as many as it has room for when they begin."""

    @model_validator(mode="after")
    def _check_training_workers(self) -> ClusterSettings:
        if (self.training_min_workers or 0) > self.training_workers:
            raise ValueError(
                f"training_min_workers {self.training_min_workers} is more than training_workers "
                f"{self.training_workers}"
            )
        return self

    @property
    def training_world_sizes(self) -> Sequence[int]:
        """How many training workers there may be at a time."""
        return range(self.training_min_workers or self.training_workers, self.training_workers + 1)

    @property
    def joined_address(self) -> str:
        """The cluster that the run joins; empty where it starts a Ray of its own on this machine."""
        return self.address or os.environ.get("RAY_ADDRESS", "")

    @property
    def is_elsewhere(self) -> bool:
        """Whether the run joins a cluster."""
        return bool(self.joined_address)

    @property
    def num_local_cpus(self) -> int:
        """CPUs of a local Ray."""
        return self.local_cpus or os.cpu_count() or 1


def check_reachable(cluster: ClusterSettings) -> None:
    """UserError unless somebody listens at the address of the cluster: Ray itself would try for many minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", cluster.joined_address)
    if found is None:  # `auto`, or a form that Ray alone knows
        return
    host, port = found[1], int(found[2])
    try:
        socket.create_connection((host, port), timeout=REACHABLE_SECONDS).close()
    except (OSError, OverflowError) as error:
        named = "cluster.address" if cluster.address else "RAY_ADDRESS"
        raise UserError(f"{named} {cluster.joined_address}: nobody answers there ({error}); is it running?") from None


def check_workers(cluster: ClusterSettings) -> None:
    """On a Ray of this machine, what is asked for must be here; a cluster must be there, and may still grow.

    Raises:
        ConfigError: more GPUs or CPUs are asked for than there are.
        UserError: nobody answers at the cluster's address.
    """
    if cluster.is_elsewhere:
        check_reachable(cluster)
        return
    import torch

    there = torch.cuda.device_count()
    asked = float(cluster.training_workers if cluster.training_on_gpus else 0)
    per_embedder = cluster.embedding.gpus_per_worker or 0
    asked = max(asked, per_embedder * (cluster.embedding.embed_workers or 1))
    if asked > there:
        raise ConfigError(f"cluster: {asked:g} GPUs are asked for, this machine has {there}")
    cores = cluster.num_local_cpus
    if cluster.training_workers * cluster.training_cpus_per_worker > cores:
        raise ConfigError(
            f"cluster.training_workers: {cluster.training_workers} x {cluster.training_cpus_per_worker:g} CPUs are "
            f"asked for, a local Ray has {cores} (cluster.training_cpus_per_worker may be a fraction)"
        )
