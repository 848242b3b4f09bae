"""A training run on what the cluster has now, and how many such runs it holds at once."""

from __future__ import annotations

import ray

from raysem.runs.cluster import ClusterSettings
from raysem.training.ray_worker import Trainable, WorkerSettings, run_training
from raysem.training.run import TrainingResult


def train_on_cluster(spec: Trainable, cluster: ClusterSettings) -> TrainingResult:
    """Train with the workers that the settings ask for; on GPUs where the cluster has some."""
    return run_training(spec, _workers(cluster))


def trainings_at_once(cluster: ClusterSettings) -> int:
    """How many training runs go side by side: what the settings say, or on a cluster what it has room for now.

    On a Ray of this machine it is one: a run's process takes more memory than its reserved CPU tells.
    """
    if cluster.trainings_at_once is not None:
        return cluster.trainings_at_once
    if not cluster.is_elsewhere:
        return 1
    workers, there = _workers(cluster), ray.cluster_resources()
    room = there.get("CPU", 0.0) / (workers.num_workers * workers.cpus_per_worker)
    if workers.use_gpu:
        room = min(room, there.get("GPU", 0.0) / workers.num_workers)
    return max(1, int(room))


def _workers(cluster: ClusterSettings) -> WorkerSettings:
    on_gpus = cluster.training_on_gpus
    return WorkerSettings(
        num_workers=cluster.training_workers,
        min_workers=cluster.training_min_workers,
        cpus_per_worker=cluster.training_cpus_per_worker,
        max_failures=cluster.training_max_failures,
        use_gpu=on_gpus if on_gpus is not None else ray.cluster_resources().get("GPU", 0) >= 1,
    )
