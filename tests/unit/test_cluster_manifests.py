"""The files in cluster/: read by Ray's own validation and autoscaler, compared with constraints.txt and each other.

Nothing is started and nothing is asked over a network; what a cloud or a Kubernetes would say is not known here.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import shlex
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.runtime_env import RuntimeEnv

import raysem
from raysem.runs import launch
from raysem.runs.curate_and_train import JOB

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PAGE = (CLUSTER / "README.md").read_text()
CLOUDS = ["aws", "gcp"]
WORKERS = ["decode", "embed", "train"]
EVERYWHERE = "0.0.0.0"
MANIFESTS = sorted(file for file in CLUSTER.rglob("*") if file.is_file() and file.suffix != ".md")

Tree = dict[str, Any]


def read(name: str) -> Tree:
    return yaml.safe_load((CLUSTER / name).read_text())


def prepared(cloud: str) -> Tree:
    """The manifest as `ray up` would use it: Ray's defaults filled in, then validated."""
    config = prepare_config(read(f"{cloud}.yaml"))
    validate_config(config)
    return config


def ray_cluster_spec(name: str) -> Tree:
    spec = read(f"kuberay/{name}.yaml")["spec"]
    return spec["rayClusterSpec"] if name == "rayjob" else spec


def node_types(name: str) -> dict[str, Tree]:
    """Kinds of nodes as Ray's autoscaler reads them, of a manifest for `ray up` or of one for KubeRay."""
    if name in CLOUDS:
        return prepared(name)["available_node_types"]
    resource = {"metadata": {"name": "raysem", "namespace": "default"}, "spec": ray_cluster_spec(name)}
    return _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]


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


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def python_tag() -> str:
    """`py311`: the Python that the types are checked for, and the oldest that the package takes."""
    return "py" + tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"].replace(
        ".", ""
    )


def overrides() -> list[str]:
    """The --set of rayjob.yaml's entrypoint, which the page advises for every job."""
    words = shlex.split(read("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    return [value for option, value in itertools.pairwise(words) if option == "--set"]


# --- ray up -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_accepts_the_manifest_and_would_not_accept_a_misspelt_one(cloud: str):
    config = prepared(cloud)
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        validate_config(config | {"idle_timeout_minuts": 5})


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nothing_of_rays_nightly_defaults_is_left(cloud: str):
    everything = json.dumps(prepared(cloud))
    for trace in ("nightly", "latest/", "ray-wheels", ".dev0", "wheels/latest", "which ray ||"):
        assert trace not in everything
    with_defaults = read(f"{cloud}.yaml")
    del with_defaults["setup_commands"]
    assert "ray-wheels/latest" in json.dumps(prepare_config(with_defaults))  # what the manifest keeps out


@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_come_from_none_to_a_number_and_go_when_idle(cloud: str):
    config = prepared(cloud)
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert list(types) == ["head", *WORKERS]
    assert all(kind["min_workers"] == 0 for kind in types.values())
    assert types["head"]["max_workers"] == 0
    assert all(types[name]["max_workers"] >= 1 for name in WORKERS)
    assert config["max_workers"] == sum(kind["max_workers"] for kind in types.values())
    assert 0 < config["idle_timeout_minutes"] <= 30


@pytest.mark.parametrize(
    ("cloud", "is_spot"),
    [
        ("aws", lambda node: node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"),
        ("gcp", lambda node: node.get("scheduling", {}).get("provisioningModel") == "SPOT"),
    ],
)
def test_decoding_and_embedding_are_on_spot_the_head_and_training_are_not(cloud: str, is_spot: Any):
    types = prepared(cloud)["available_node_types"]
    assert {name: is_spot(kind["node_config"]) for name, kind in types.items()} == {
        "head": False,
        "decode": True,
        "embed": True,
        "train": False,
    }


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_process_of_the_machines_wants_the_token_of_the_users_machine(cloud: str):
    config = prepared(cloud)
    given = dict(
        option.removeprefix("-e ").split("=", 1) for option in config["docker"]["run_options"] if "-e " in option
    )
    assert given["RAY_AUTH_MODE"] == "token"
    assert config["file_mounts"][given["RAY_AUTH_TOKEN_PATH"]] == "~/.ray/auth_token"
    assert "RAY_AUTH_TOKEN" not in given
    for side in ("head", "worker"):
        assert given["RAY_AUTH_TOKEN_PATH"] in " ".join(config[f"{side}_setup_commands"])  # checked before Ray starts


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_dashboard_listens_on_the_heads_own_address_only(cloud: str):
    start = next(command for command in prepared(cloud)["head_start_ray_commands"] if "--head" in command)
    assert re.findall(r"--dashboard-host[= ](\S+)", start) == ["127.0.0.1"]
    assert "--num-cpus=0" in start


def test_on_aws_the_region_is_the_same_everywhere_and_an_idle_machine_is_ended_not_stopped():
    config = read("aws.yaml")
    region = config["provider"]["region"]
    assert config["provider"].keys() == {"type", "region", "availability_zone", "cache_stopped_nodes"}  # Ray takes any
    assert config["provider"]["cache_stopped_nodes"] is False
    assert f"-e AWS_DEFAULT_REGION={region}" in config["docker"]["run_options"]
    assert all(zone.startswith(region) for zone in config["provider"]["availability_zone"].split(","))


# --- which machine comes for which work -------------------------------------------------------------------------------

DECODE, EMBED = {"CPU": 0.5}, {"GPU": 1.0}
"""What raysem asks Ray for beside training: `plan_workers` of curation/ray_stages.py."""

MANIFESTS_OF_CLUSTERS = pytest.mark.parametrize("name", [*CLOUDS, "raycluster", "rayjob"])


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


# --- versions ---------------------------------------------------------------------------------------------------------


def test_every_pinned_package_has_the_version_of_constraints_txt():
    wanted, found = constraints(), []
    for file in MANIFESTS:
        for name, version in re.findall(r"([A-Za-z][\w-]*)(?:\[[\w,]*\])?==([\w.]+)", file.read_text()):
            assert wanted[name] == version, f"{file.name}: {name}"
            found.append((file.name, name))
    for file in ("aws.yaml", "gcp.yaml", "Dockerfile"):
        assert {(file, "ray"), (file, "torch"), (file, "torchaudio")} <= set(found)


def test_every_image_is_pinned_to_the_same_ray_torch_and_python():
    version, ours = constraints(), raysem.__version__
    base = f"rayproject/ray:{version['ray']}-{python_tag()}"
    built = f"raysem:{ours}-ray{version['ray']}-torch{version['torch']}-{python_tag()}"
    images = {cloud: [read(f"{cloud}.yaml")["docker"]["image"]] for cloud in CLOUDS}
    images["Dockerfile"] = re.findall(r"^FROM (\S+)$", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert images == {"aws": [base], "gcp": [base], "Dockerfile": [base]}
    of_pods = [container["image"] for _, pod in pods() for container in pod["spec"]["containers"]]
    assert set(of_pods) == {built}
    for text in (PAGE, (CLUSTER / "Dockerfile").read_text()):
        assert re.findall(r"docker build .* -t (\S+)", text) == [built]
    for name in ("raycluster", "rayjob"):
        assert ray_cluster_spec(name)["rayVersion"] == version["ray"]


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_no_manifest_opens_to_everywhere_or_takes_a_moving_version(file: Path):
    text = file.read_text()
    for forbidden in (
        EVERYWHERE,
        ":latest",
        "nightly-",
        ":nightly",
        "LoadBalancer",
        "NodePort",
        "--pre ",
        "privileged",
    ):
        assert forbidden not in text
    for command in re.findall(r"pip install(?:(?!pip install|&&|\n\n|- ).)*", text, flags=re.DOTALL):
        assert "--constraint" in command


# --- KubeRay ----------------------------------------------------------------------------------------------------------

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


def pods() -> Iterator[tuple[str, Tree]]:
    """Every pod template of the KubeRay manifests, with its place."""
    for name in ("raycluster", "rayjob"):
        spec = ray_cluster_spec(name)
        yield f"{name}/head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{name}/{group['groupName']}", group["template"]
    yield "rayjob/submitter", read("kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]


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


# --- rights -----------------------------------------------------------------------------------------------------------

BUCKET = "arn:aws:s3:::REPLACE_BUCKET"


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def beyond_the_bucket(policy: Tree) -> list[str]:
    """What a policy grants beyond named actions on one bucket and its objects."""
    found = []
    for statement in policy["Statement"]:
        if statement.keys() != {"Sid", "Effect", "Action", "Resource"} or statement["Effect"] != "Allow":
            found.append(f"{statement.get('Sid')}: a form that is not understood here")
            continue
        found += [
            action
            for action in as_list(statement["Action"])
            if not re.fullmatch(r"s3:[A-Za-z]+", action) or "Policy" in action or "Acl" in action
        ]
        found += [resource for resource in as_list(statement["Resource"]) if resource not in (BUCKET, f"{BUCKET}/*")]
    return found


def test_the_bucket_policy_grants_named_actions_on_one_bucket():
    policy = json.loads((CLUSTER / "aws_bucket_policy.json").read_text())
    assert beyond_the_bucket(policy) == []
    granted = {action for statement in policy["Statement"] for action in as_list(statement["Action"])}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"} <= granted


@pytest.mark.parametrize(
    ("key", "wide"),
    [
        ("Action", "s3:*"),
        ("Action", ["s3:GetObject", "s3:Put*"]),
        ("Action", "s3:PutBucketPolicy"),
        ("Resource", "*"),
        ("Resource", "arn:aws:s3:::*"),
        ("Resource", [BUCKET, "arn:aws:s3:::another/*"]),
        ("Resource", "arn:aws:s3:::REPLACE_BUCKET*"),
        ("NotAction", "s3:DeleteObject"),
    ],
)
def test_a_wider_bucket_policy_would_be_noticed(key: str, wide: Any):
    policy = json.loads((CLUSTER / "aws_bucket_policy.json").read_text())
    policy["Statement"][1][key] = wide
    assert beyond_the_bucket(policy)


def test_the_head_may_start_and_end_machines_of_its_own_cluster_only():
    config = read("aws.yaml")
    statements = json.loads((CLUSTER / "aws_head_policy.json").read_text())["Statement"]
    for statement in statements:
        actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])
        assert statement["Effect"] == "Allow"
        assert all(re.fullmatch(r"(ec2|iam):[A-Za-z]+", action) for action in actions)
        if any(not action.startswith("ec2:Describe") for action in actions):
            assert all(resource.startswith("arn:aws:") for resource in resources)
        if any(resource.endswith(":instance/*") for resource in resources):
            (condition,) = statement["Condition"]["StringEquals"].items()
            assert condition in {
                (f"aws:RequestTag/{TAG_RAY_CLUSTER_NAME}", config["cluster_name"]),
                (f"aws:ResourceTag/{TAG_RAY_CLUSTER_NAME}", config["cluster_name"]),
                ("ec2:CreateAction", "RunInstances"),
            }
        if "ec2:TerminateInstances" in actions:
            assert f"aws:ResourceTag/{TAG_RAY_CLUSTER_NAME}" in statement["Condition"]["StringEquals"]
    passed = [statement for statement in statements if "iam:PassRole" in as_list(statement["Action"])]
    workers = {config["available_node_types"][name]["node_config"]["IamInstanceProfile"]["Name"] for name in WORKERS}
    assert [statement["Resource"] for statement in passed] == [
        f"arn:aws:iam::REPLACE_ACCOUNT:role/{name}" for name in workers
    ]
    granted = {action for statement in statements for action in as_list(statement["Action"])}
    assert granted == {
        "ec2:DescribeInstances",
        "ec2:RunInstances",
        "ec2:CreateTags",
        "ec2:TerminateInstances",
        "iam:PassRole",
    }


def test_no_machine_gets_the_wide_rights_of_rays_default_role():
    for kind in read("aws.yaml")["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"]["Name"] in {"raysem-head", "raysem-worker"}
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    for name, kind in read("gcp.yaml")["available_node_types"].items():
        (account,) = kind["node_config"]["serviceAccounts"]
        assert account["email"].split("@")[0] == ("raysem-head" if name == "head" else "raysem-worker")
        if name != "head":
            assert all("cloud-platform" not in scope for scope in account["scopes"])


def test_the_roles_of_google_cloud_name_each_permission():
    bucket = json.loads((CLUSTER / "gcp_bucket_role.json").read_text())["includedPermissions"]
    allowed = r"storage\.(buckets\.get|objects\.(create|delete|get|list)|multipartUploads\.\w+)"
    assert all(re.fullmatch(allowed, permission) for permission in bucket)
    head = json.loads((CLUSTER / "gcp_head_role.json").read_text())["includedPermissions"]
    allowed = r"compute\.(instances|disks|images|subnetworks|zoneOperations)\.[a-zA-Z]+"
    assert all(re.fullmatch(allowed, permission) and "IamPolicy" not in permission for permission in head)
    assert {"compute.instances.create", "compute.instances.delete", "compute.instances.list"} <= set(head)


# --- code: runtime environment, wheel, image --------------------------------------------------------------------------


def test_the_runtime_environment_carries_the_code_and_leaves_the_rest_at_home(tmp_path: Path):
    content = read("runtime_env.yaml")
    RuntimeEnv(**content)
    assert all(isinstance(value, str) for value in content["env_vars"].values())
    for file in ("raysem/__init__.py", "raysem/curation/ray_stages.py", "jobs/recipes/quickstart.yaml", "tests/x.py"):
        (tmp_path / "code" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / file).touch()
    for folder in (".git", "docs", "runs/quickstart", "dist", "raysem/docs"):
        (tmp_path / "code" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / folder / "file").touch()
    (tmp_path / "code" / "long.wav").touch()
    package = tmp_path / "package.zip"
    create_package(str(tmp_path / "code"), package, include_gitignore=True, excludes=content["excludes"])
    carried = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    assert carried == {
        "raysem/__init__.py",
        "raysem/curation/ray_stages.py",
        "raysem/docs/file",
        "jobs/recipes/quickstart.yaml",
    }


def test_every_folder_that_stays_at_home_is_one_that_a_job_does_not_need():
    needed = {"/jobs/", "/raysem/"}
    for pattern in read("runtime_env.yaml")["excludes"]:
        assert pattern.startswith("/")  # a bare `docs/` would take raysem/.../docs as well
        assert pattern not in needed


def test_the_wheel_lands_where_the_manifests_look_for_it():
    shown = subprocess.run(["make", "-n", "wheel"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (folder,) = re.findall(r"pip wheel .*--wheel-dir (\S+)", shown)
    assert f"{folder}/raysem-*.whl" in shown  # the one before goes: two would be ambiguous
    for cloud in CLOUDS:
        config = read(f"{cloud}.yaml")
        mounted = next(remote for remote, local in config["file_mounts"].items() if local == folder)
        assert any(f"{mounted}/raysem-*.whl" in command for command in config["setup_commands"])
    assert f"{folder}/raysem-*.whl" in (CLUSTER / "Dockerfile").read_text()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_is_mounted_and_used_on_the_machines_is_the_same(cloud: str):
    config = read(f"{cloud}.yaml")
    used = set(re.findall(r"/home/ray/[\w./]+[\w]", (CLUSTER / f"{cloud}.yaml").read_text()))
    for path in used:
        assert any(path == remote or path.startswith(f"{remote}/") for remote in config["file_mounts"]), path


def test_the_image_runs_as_a_number_that_is_not_root_and_its_context_holds_what_it_copies():
    lines = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert all(int(user) > 0 for user in users)
    kept = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1] if "--" not in word}
    assert copied == kept
    assert not any(
        re.search(r"apt-get|apk |ffmpeg|sudo|curl|wget", line, re.IGNORECASE) for line in lines if line[:1] != "#"
    )
    in_kubernetes = {pod["spec"]["securityContext"]["runAsUser"] for _, pod in pods()}
    assert in_kubernetes == {int(users[-1])}


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_every_file():
    linked = set(re.findall(r"\]\(([\w./]+)\)", PAGE.split("\n## ")[0]))
    there = {str(file.relative_to(CLUSTER)) for file in MANIFESTS}
    assert linked == there


@pytest.mark.parametrize(
    "title", ["AWS: aws.yaml", "Google Cloud: gcp.yaml", "Kubernetes: ", "The image: ", "Code for"]
)
def test_each_part_of_the_page_says_cost_change_and_watching(title: str):
    (part,) = [part for part in PAGE.split("\n## ") if part.startswith(title)]
    headings = re.findall(r"^(?:### |- \*\*)(.*?)(?:\*\*.*)?$", part, flags=re.MULTILINE)
    asked = [[word for word in ("cost", "change", "watch") if word in heading.lower()] for heading in headings]
    assert [words[0] for words in asked if words] == ["cost", "change", "watch"]


def test_the_page_explains_everything_that_a_user_must_replace():
    text = "\n".join(file.read_text() for file in MANIFESTS)
    named = r"REPLACE_[A-Z_]*[A-Z]"
    assert set(re.findall(named, text)) == set(re.findall(named, PAGE))


@pytest.mark.parametrize(("cloud", "machine"), [("aws", "InstanceType"), ("gcp", "machineType")])
def test_the_table_of_costs_has_the_machines_of_the_manifest_and_adds_up(cloud: str, machine: str):
    (part,) = [part for part in PAGE.split("\n## ") if f": {cloud}.yaml" in part.splitlines()[0]]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")
    ]
    table = {row[0]: row for row in rows[1:]}
    types = read(f"{cloud}.yaml")["available_node_types"]
    assert list(table) == [*types, "all at once"]
    bound = 0.0
    for name, kind in types.items():
        _, machine_cell, at_most, price = table[name]
        assert re.split(r"[ ,]", machine_cell)[0] == kind["node_config"][machine]
        assert ("spot" in machine_cell) == (name in ("decode", "embed"))
        assert int(at_most) == max(kind["max_workers"], 1)
        bound += int(at_most) * float(price)
    assert float(table["all at once"][3]) == pytest.approx(bound, abs=0.005)


def test_the_page_says_what_the_pods_ask_for():
    (part,) = [part for part in PAGE.split("\n## ") if part.startswith("Kubernetes: ")]
    said = " ".join(part.split())
    for group in ray_cluster_spec("raycluster")["workerGroupSpecs"]:
        asked = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        cpus, gib = asked["cpu"], asked["memory"].removesuffix("Gi")
        assert re.search(rf"`{group['groupName']}` {cpus} CPUs(,| and) {gib} GiB", said), group["groupName"]
