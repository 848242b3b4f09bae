"""The manifests in cluster/ for KubeRay: fields, pods, network and entrypoint. Nothing is asked of a Kubernetes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from manifests import CLUSTER, PAGE, ROOT, WORKERS, Tree, node_types, pods, ray_cluster_spec, read

from raysem.runs import launch
from raysem.runs.curate_and_train import JOB

FIELDS = {
    "RayCluster": {"apiVersion", "kind", "metadata", "spec"},
    "RayClusterSpec": {
        "authOptions",
        "autoscalerOptions",
        "enableInTreeAutoscaling",
        "gcsFaultToleranceOptions",
        "headGroupSpec",
        "headServiceAnnotations",
        "managedBy",
        "rayVersion",
        "suspend",
        "workerGroupSpecs",
    },
    "AutoscalerOptions": {
        "env",
        "envFrom",
        "idleTimeoutSeconds",
        "image",
        "imagePullPolicy",
        "resources",
        "securityContext",
        "upscalingMode",
        "version",
        "volumeMounts",
    },
    "HeadGroupSpec": {"enableIngress", "headService", "rayStartParams", "serviceType", "template"},
    "WorkerGroupSpec": {
        "groupName",
        "idleTimeoutSeconds",
        "maxReplicas",
        "minReplicas",
        "numOfHosts",
        "rayStartParams",
        "replicas",
        "scaleStrategy",
        "suspend",
        "template",
    },
    "RayJobSpec": {
        "activeDeadlineSeconds",
        "backoffLimit",
        "clusterSelector",
        "deletionStrategy",
        "entrypoint",
        "entrypointNumCpus",
        "entrypointNumGpus",
        "entrypointResources",
        "jobId",
        "managedBy",
        "rayClusterSpec",
        "runtimeEnvYAML",
        "shutdownAfterJobFinishes",
        "submissionMode",
        "submitterConfig",
        "submitterPodTemplate",
        "suspend",
        "ttlSecondsAfterFinished",
    },
}
"""Of ray.io/v1 in KubeRay's API reference (ray-project/kuberay, docs/reference/api.md; authOptions came with 1.5.1)."""


def access() -> dict[tuple[str, str], Tree]:
    documents = yaml.safe_load_all((CLUSTER / "kuberay" / "access.yaml").read_text())
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_the_kuberay_manifests_have_only_fields_that_kuberay_has(name: str):
    document, spec = read(f"kuberay/{name}.yaml"), ray_cluster_spec(name)
    assert document["apiVersion"] == "ray.io/v1"
    assert document["kind"] == {"raycluster": "RayCluster", "rayjob": "RayJob"}[name]
    assert document.keys() == FIELDS["RayCluster"]
    if name == "rayjob":
        assert document["spec"].keys() <= FIELDS["RayJobSpec"]
    assert spec.keys() <= FIELDS["RayClusterSpec"]
    assert spec["autoscalerOptions"].keys() <= FIELDS["AutoscalerOptions"]
    assert spec["headGroupSpec"].keys() <= FIELDS["HeadGroupSpec"]
    for group in spec["workerGroupSpecs"]:
        assert group.keys() <= FIELDS["WorkerGroupSpec"]
    for parameters in (
        spec["headGroupSpec"]["rayStartParams"],
        *(g["rayStartParams"] for g in spec["workerGroupSpecs"]),
    ):
        assert all(isinstance(value, str) for value in parameters.values())  # numbers are refused there


def test_the_job_gets_the_cluster_of_raycluster_yaml():
    assert ray_cluster_spec("rayjob") == ray_cluster_spec("raycluster")


def test_the_kuberay_cluster_grows_by_autoscaler_v2_and_wants_a_token():
    spec = ray_cluster_spec("raycluster")
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert 0 < spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 1800
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["groupName"] for group in spec["workerGroupSpecs"]] == WORKERS
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0
        assert group["maxReplicas"] >= 1
    types = node_types("raycluster")
    assert types["headgroup"]["resources"]["CPU"] == types["headgroup"]["resources"]["GPU"] == 0


def test_a_job_is_tried_again_and_its_cluster_goes_away():
    spec = read("kuberay/rayjob.yaml")["spec"]
    assert 1 <= spec["backoffLimit"] <= 5
    assert spec["submitterConfig"]["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True  # without it the time to live counts for nothing
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert spec["activeDeadlineSeconds"] > spec["ttlSecondsAfterFinished"]


@pytest.mark.parametrize("pod", [pytest.param(pod, id=place) for place, pod in pods()])
def test_a_pod_asks_for_what_it_may_use_and_is_never_root(pod: Tree):
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["restartPolicy"] == "Never"
    assert ("ServiceAccount", spec["serviceAccountName"]) in access()
    (container,) = spec["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()


def test_the_autoscalers_container_is_bound_as_well():
    options = ray_cluster_spec("raycluster")["autoscalerOptions"]
    assert options["resources"]["requests"] == options["resources"]["limits"]
    assert options["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_gpus_and_spot_nodes_go_to_the_groups_that_are_for_them():
    found = {}
    for group in ray_cluster_spec("raycluster")["workerGroupSpecs"]:
        spec = group["template"]["spec"]
        gpus = spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        found[group["groupName"]] = (gpus, {toleration["key"] for toleration in spec["tolerations"]})
        assert spec["nodeSelector"] == {"raysem/pool": group["groupName"]}
    assert found == {
        "decode": (None, {"raysem/spot"}),
        "embed": ("1", {"raysem/spot", "nvidia.com/gpu"}),
        "train": ("1", {"nvidia.com/gpu"}),
    }


def test_the_network_policy_covers_every_ray_pod_and_lets_the_submitter_reach_the_dashboard_only():
    policy = access()["NetworkPolicy", "raysem"]["spec"]
    covered = policy["podSelector"]["matchLabels"]
    among_pods, to_dashboard = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"]
    assert among_pods == {"from": [{"podSelector": {"matchLabels": covered}}]}
    assert [port["port"] for port in to_dashboard["ports"]] == [8265]
    submitter = to_dashboard["from"][0]["podSelector"]["matchLabels"]
    for place, pod in pods():
        wanted = submitter if place == "rayjob/submitter" else covered
        assert pod["metadata"]["labels"].items() >= wanted.items(), place
    for name in ("raycluster", "rayjob"):
        head = ray_cluster_spec(name)["headGroupSpec"]
        assert head["serviceType"] == "ClusterIP"
        assert "enableIngress" not in head


def test_the_entrypoint_runs_a_script_and_a_recipe_that_are_there():
    words = shlex.split(read("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    assert words[0] == "python"
    (copied,) = re.findall(r"^COPY .*jobs (\S+)$", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert (ROOT / "jobs" / Path(words[1]).relative_to(copied)).is_file()
    options = launch.parser_of(JOB).parse_args(words[2:])
    assert options.output.startswith("s3://")
    head = ray_cluster_spec("rayjob")["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert options.recipe == f"{mount['mountPath']}/recipe.yaml"
    assert head["volumes"] == [{"name": mount["name"], "configMap": {"name": "raysem-recipe", "optional": True}}]
    assert "create configmap raysem-recipe --from-file=recipe.yaml=" in PAGE
