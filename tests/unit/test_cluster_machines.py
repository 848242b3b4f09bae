"""Which machine of the manifests in cluster/ comes for which work, as Ray's own autoscaler decides it."""

from __future__ import annotations

import copy
import re

import pytest
from manifests import CLOUDS, PAGE, Tree, node_types, overrides
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from raysem.runs import launch
from raysem.runs.curate_and_train import JOB

DECODE, EMBED = {"CPU": 0.5}, {"GPU": 1.0}
"""What raysem asks Ray for beside training: `plan_workers` of curation/ray_stages.py."""

MANIFESTS_OF_CLUSTERS = pytest.mark.parametrize("name", [*CLOUDS, "raycluster", "rayjob"])


def launched(types: dict[str, Tree], requests: list[dict[str, float]]) -> tuple[dict[str, int], int]:
    """Machines that Ray's autoscaler would start for the requests on an idle cluster, and requests that never fit."""
    configs = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=kind["min_workers"],
            max_worker_nodes=kind["max_workers"],
            resources=kind["resources"],
            labels={},
            launch_config_hash="",
        )
        for name, kind in types.items()
    }
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=configs,
            max_num_nodes=sum(kind["max_workers"] for kind in types.values()) + 1,
            resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(one) for one in requests]),
        )
    )
    return {launch.instance_type: launch.count for launch in reply.to_launch}, len(reply.infeasible_resource_requests)


def train() -> dict[str, float]:
    """What one training worker asks for with the advised settings, as `run_training` of training/ray_worker.py says."""
    return {"CPU": launch.load(JOB, None, overrides()).cluster.training_cpus_per_worker, "GPU": 1.0}


@MANIFESTS_OF_CLUSTERS
def test_each_kind_of_work_brings_its_own_kind_of_machine(name: str):
    types = node_types(name)
    assert launched(types, [DECODE] * 8) == ({"decode": 1}, 0)
    assert launched(types, [EMBED] * 3) == ({"embed": 3}, 0)
    assert launched(types, [train()] * 2) == ({"train": 2}, 0)


@MANIFESTS_OF_CLUSTERS
def test_training_is_never_on_spot_even_where_no_other_machine_is_left(name: str):
    started, infeasible = launched(node_types(name), [train()] * 6)
    assert started == {"train": 2}
    assert infeasible == 4


@MANIFESTS_OF_CLUSTERS
@pytest.mark.parametrize("found_by_ray", [False, True])
@pytest.mark.parametrize("actors", [1, 4])
@pytest.mark.parametrize("decode_tasks", [1, 13, 14, 20, 200])
def test_decoding_and_embedding_together_start_no_training_machine(
    name: str, decode_tasks: int, actors: int, found_by_ray: bool
):
    types = copy.deepcopy(node_types(name))
    if found_by_ray:  # what `ray up` on AWS, and every node when it starts, adds of its own
        for kind, gib in {"decode": 32, "embed": 32, "train": 128}.items():
            types[kind]["resources"]["memory"] = gib * 2**30
        types["embed"]["resources"]["accelerator_type:L4"] = types["train"]["resources"]["accelerator_type:L40S"] = 1
    started, infeasible = launched(types, [DECODE] * decode_tasks + [EMBED] * actors)
    assert infeasible == 0
    assert started["embed"] == actors
    assert "train" not in started


@MANIFESTS_OF_CLUSTERS
def test_without_the_resource_that_stays_idle_embedding_would_start_training_machines(name: str):
    types = copy.deepcopy(node_types(name))
    del types["train"]["resources"]["training"]
    assert "train" in launched(types, [DECODE] * 200 + [EMBED])[0]


@MANIFESTS_OF_CLUSTERS
def test_the_advised_bounds_are_within_the_workers_there_may_be(name: str):
    types, cluster = node_types(name), launch.load(JOB, None, overrides()).cluster
    embedding = cluster.embedding
    assert embedding.gpus_per_worker == 1
    assert cluster.training_on_gpus
    assert cluster.training_workers <= types["train"]["max_workers"]
    wanted = [{"CPU": embedding.cpus_per_decode_task}] * embedding.max_decode_tasks + [EMBED] * embedding.embed_workers
    assert "train" not in launched(types, wanted)[0]
    assert embedding.max_decode_tasks * embedding.cpus_per_decode_task <= (
        types["decode"]["max_workers"] * types["decode"]["resources"]["CPU"]
    )
    too_many = [EMBED] * (types["embed"]["max_workers"] + 1)
    assert "train" in launched(types, too_many)[0]  # what the bound on embed_workers is for


def test_the_page_advises_what_rayjob_yaml_says():
    advised = re.findall(r"^--set (\S+)", PAGE, flags=re.MULTILINE)
    assert sorted(advised) == sorted(overrides())
