"""The files in cluster/, read as a test needs them."""

from __future__ import annotations

import itertools
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PAGE = (CLUSTER / "README.md").read_text()
CLOUDS = ["aws", "gcp"]
WORKERS = ["decode", "embed", "train"]
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


def pods() -> Iterator[tuple[str, Tree]]:
    """Every pod template of the KubeRay manifests, with its place."""
    for name in ("raycluster", "rayjob"):
        spec = ray_cluster_spec(name)
        yield f"{name}/head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{name}/{group['groupName']}", group["template"]
    yield "rayjob/submitter", read("kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]


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
