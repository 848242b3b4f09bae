"""A training run on what the cluster has now."""

from __future__ import annotations

import ray

from raysem.runs.cluster import ClusterSettings
from raysem.training.ray_worker import Trainable, WorkerSettings, run_training
from raysem.training.run import TrainingResult


def train_on_cluster(spec: Trainable, cluster: ClusterSettings) -> TrainingResult:
    """Train with the workers that the settings ask for; on GPUs where the cluster has some."""
    on_gpus = cluster.training_on_gpus
    workers = WorkerSettings(
        num_workers=cluster.training_workers,
        cpus_per_worker=cluster.training_cpus_per_worker,
        use_gpu=on_gpus if on_gpus is not None else ray.cluster_resources().get("GPU", 0) >= 1,
    )
    return run_training(spec, workers)
