"""Where a training process runs: its rank, its device, and how it reports. The loop knows nothing else of Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist

from raysem.errors import ConfigError, RaysemError, StageError, StorageError
from raysem.losses.gather import in_group

if TYPE_CHECKING:  # these know a context
    from raysem.training.examples import Examples
    from raysem.training.loader import Batches
    from raysem.training.plan import StepPlan
    from raysem.training.settings import TrainingSettings


class TrainingError(StageError):
    """Training cannot go on. Raised at the same step on every rank, so that none waits for another."""


class TrainingStorageError(TrainingError, StorageError):
    """The same where a disk or a store is the reason, which the user can put right."""


class TrainContext(Protocol):
    """One process of a training run. A process group of `world_size` ranks exists when that is more than 1."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def local_world_size(self) -> int:
        """Ranks on this machine, which share its cores."""
        ...

    @property
    def device(self) -> torch.device: ...

    def report(self, metrics: Mapping[str, float]) -> None:
        """Publish metrics of a held-out evaluation; called equally often on every rank."""
        ...

    def loses_machine(self) -> bool:
        """Whether a machine of the group is about to be taken away; called equally often on every rank, where the
        answer is the same."""
        ...

    def cluster_batches(self, plan: StepPlan, examples: Examples, settings: TrainingSettings) -> Batches:
        """This rank's batches, whose clips other machines decode; ConfigError where there are none."""
        ...


@dataclass(frozen=True)
class LocalContext:
    """A process without Ray: alone, or one of a torch.distributed group on this machine."""

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def current(cls, device: str | torch.device | None = None) -> LocalContext:
        """The ranks of the initialised process group, if any; by default the GPU of that rank, or the CPU."""
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if device is None:
            device = f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
        return cls(rank, world_size, world_size, torch.device(device))

    def report(self, metrics: Mapping[str, float]) -> None:
        """Nobody listens; the metrics file has them."""

    def loses_machine(self) -> bool:
        """Nobody would say so."""
        return False

    def cluster_batches(self, plan: StepPlan, examples: Examples, settings: TrainingSettings) -> Batches:
        """ConfigError: there is no cluster here."""
        raise ConfigError("training.decode: cluster needs a run on Ray; in a process of its own it is worker")


def stop_together(error: RaysemError | None, context: TrainContext, *, asks: bool = False) -> bool:
    """Raise on every rank when any of them comes with an `error`; called on every rank.

    Returns whether any rank `asks`: so a question that all must put together is agreed on at no further cost.

    Raises:
        TrainingError: with the line of the first rank that has one; TrainingStorageError for a StorageError.
    """
    errors = [error]
    if in_group():
        counts = torch.tensor([error is not None, asks], dtype=torch.int32, device=context.device)
        dist.all_reduce(counts)
        num_failed, num_asking = counts.tolist()
        if not num_failed:
            return num_asking > 0
        errors = [None] * context.world_size
        dist.all_gather_object(errors, error)
    for found in errors:
        if found is not None:
            kind = TrainingStorageError if isinstance(found, StorageError) else TrainingError
            raise kind(str(found)) from found
    return asks


def available_cores() -> int:
    """Cores this process may use: its CPU affinity, and the quota of its container where one is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return max(1, cores)
    return max(1, cores if quota == "max" else min(cores, int(quota) // int(period)))


@contextmanager
def process_settings(num_threads: int, device: torch.device) -> Iterator[None]:
    """Within: torch computes on `num_threads` threads; afterwards these and torch's random state are as before."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_num_threads(num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
