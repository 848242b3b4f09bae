"""The files in cluster/: read by Ray's own validation and autoscaler, compared with constraints.txt and each other.

Nothing is started and nothing is asked over a network; what a cloud or a Kubernetes would say is not known here.
"""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from manifests import (
    CLOUDS,
    CLUSTER,
    MANIFESTS,
    PAGE,
    ROOT,
    WORKERS,
    constraints,
    pods,
    prepared,
    python_tag,
    ray_cluster_spec,
    read,
)
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

import raysem

EVERYWHERE = "0.0.0.0"


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
