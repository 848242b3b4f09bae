"""How many training runs go side by side, by what the cluster says that it has."""

from __future__ import annotations

from typing import Any

import pytest

from raysem.config import build
from raysem.errors import ConfigError
from raysem.runs import cluster_training
from raysem.runs.cluster import ClusterSettings
from raysem.runs.cluster_training import train_on_cluster, trainings_at_once
from raysem.training.ray_worker import WorkerSettings


def at_once(monkeypatch: pytest.MonkeyPatch, there: dict[str, float], **settings: Any) -> int:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.cluster_resources", lambda: there)
    return trainings_at_once(build(ClusterSettings, settings))


def test_on_a_ray_of_this_machine_it_is_one_after_the_other(monkeypatch: pytest.MonkeyPatch):
    assert at_once(monkeypatch, {"CPU": 64.0, "GPU": 8.0}) == 1
    assert at_once(monkeypatch, {"CPU": 2.0}, trainings_at_once=3) == 3


@pytest.mark.parametrize(
    ("there", "settings", "number"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, {}, 8),
        ({"CPU": 64.0, "GPU": 8.0}, {"training_workers": 3}, 2),
        ({"CPU": 64.0, "GPU": 8.0}, {"training_cpus_per_worker": 16.0}, 4),
        ({"CPU": 64.0, "GPU": 8.0}, {"training_on_gpus": False, "training_cpus_per_worker": 4.0}, 16),
        ({"CPU": 6.0}, {"training_workers": 2, "training_cpus_per_worker": 0.5}, 6),
        ({"CPU": 6.0}, {"training_on_gpus": True}, 1),  # a cluster may still grow
        ({}, {}, 1),
        ({"CPU": 64.0, "GPU": 8.0}, {"trainings_at_once": 2}, 2),
    ],
)
def test_on_a_cluster_it_is_what_its_cpus_and_gpus_hold(
    there: dict[str, float], settings: dict[str, Any], number: int, monkeypatch: pytest.MonkeyPatch
):
    assert at_once(monkeypatch, there, address="auto", **settings) == number


def test_a_cluster_of_the_environment_is_a_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 5.0})
    assert trainings_at_once(ClusterSettings()) == 5


def test_none_at_once_is_refused():
    with pytest.raises(ConfigError, match=r"trainings_at_once: expected greater than 0, got 0$"):
        build(ClusterSettings, {"trainings_at_once": 0})


def test_fewer_workers_may_do_where_the_recipe_says_so(monkeypatch: pytest.MonkeyPatch):
    asked: list[WorkerSettings] = []
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 5.0})
    monkeypatch.setattr(cluster_training, "run_training", lambda spec, workers: asked.append(workers))
    for settings in ({}, {"training_workers": 4}, {"training_workers": 4, "training_min_workers": 2}):
        train_on_cluster(None, build(ClusterSettings, settings))  # type: ignore[arg-type]
    assert [list(workers.world_sizes) for workers in asked] == [[1], [4], [2, 3, 4]]


def test_more_workers_at_least_than_at_most_are_refused():
    with pytest.raises(ConfigError, match="training_min_workers 3 is more than training_workers 2"):
        build(ClusterSettings, {"training_workers": 2, "training_min_workers": 3})
