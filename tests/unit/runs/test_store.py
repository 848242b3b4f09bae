"""Endpoint and region that a recipe names: what they may be, whom they reach, and that no stage is another by them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from faulty_store import UNSET, FaultyStore

from raysem import config, storage
from raysem.errors import ConfigError
from raysem.runs import classification, curate_and_train, local_ray, tagging
from raysem.runs.cluster import ClusterSettings
from raysem.runs.launch import Job, connect_ray, load
from raysem.runs.store import StoreSettings

ENDPOINT = "https://store.example:9000"
VARIABLES = {
    "AWS_ENDPOINT_URL_S3": ENDPOINT,
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
    "AWS_REGION": "eu-west-3",
    "AWS_DEFAULT_REGION": "eu-west-3",
}
JOBS: list[Job[Any]] = [curate_and_train.JOB, classification.JOB, tagging.JOB]


def cluster(**keys: Any) -> ClusterSettings:
    return config.build(ClusterSettings, keys)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> ClusterSettings:
    """A cluster with a store of its own; this process's environment, which another store is in, is put back."""
    for name in (*VARIABLES, "RAY_OVERRIDE_JOB_RUNTIME_ENV", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "another")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return cluster(storage={"endpoint_url": ENDPOINT, "region": "eu-west-3"})


@pytest.mark.parametrize("text", ["http://127.0.0.1:9000", "https://storage.googleapis.com", "http://[::1]:9000/s3/"])
def test_an_endpoint_is_a_url_of_http(text: str):
    assert cluster(storage={"endpoint_url": text}).storage.environment["AWS_ENDPOINT_URL_S3"] == text


@pytest.mark.parametrize(
    "text",
    ["minio:9000", "s3://bucket", "http://", "https://me@store", "http://x:99999", "http://x?a=b", "http://a b"],
)
def test_an_endpoint_that_is_none_is_one_line(text: str):
    line = r"^recipe: storage\.endpoint_url: expected http://host:port or https://host:port, without user, .*$"
    with pytest.raises(ConfigError, match=line):
        cluster(storage={"endpoint_url": text})


def test_an_endpoint_with_a_password_is_refused_and_not_said():
    with pytest.raises(ConfigError, match=r"^recipe: storage\.endpoint_url: holds a credential, .*environ") as error:
        cluster(storage={"endpoint_url": "https://me:HUSHHUSH@store.example"})
    assert "HUSH" not in str(error.value)
    with pytest.raises(ValueError, match="without user, password or query") as direct:
        StoreSettings(endpoint_url="https://me:HUSHHUSH@store.example")
    assert "HUSH" not in direct.value.errors()[0]["msg"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["access_key_id", "secret_access_key", "session_token", "profile"])
def test_credentials_have_no_key(key: str):
    with pytest.raises(ConfigError, match=rf"storage\.{key}: no such key.*; there are endpoint_url, region$"):
        cluster(storage={key: "x"})


@pytest.mark.parametrize("text", ["", "us east", "eu-west-3;", "-x"])
def test_a_region_is_a_name(text: str):
    with pytest.raises(ConfigError, match=r"^recipe: storage\.region: expected a name such as us-east-1, got"):
        cluster(storage={"region": text})


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_the_stages_of_another_store_are_the_same_ones(job: Job[Any], tmp_path: Path):
    keys = [f"cluster.storage.endpoint_url={ENDPOINT}", "cluster.storage.region=eu-west-3"]
    recipes = load(job, None, []), load(job, None, keys)
    assert [job.store(recipe).environment for recipe in recipes] == [{}, VARIABLES]  # type: ignore[misc]
    before, after = ([(s.name, s.digest) for s in job.stages(recipe, str(tmp_path))] for recipe in recipes)
    assert before == after


def test_a_ray_of_this_machine_inherits_what_the_recipe_says(
    elsewhere: ClusterSettings, monkeypatch: pytest.MonkeyPatch
):
    started: list[dict[str, Any]] = []

    def start(**settings: Any) -> None:
        started.append(settings | {name: os.environ[name] for name in VARIABLES})

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(local_ray, "start", start)
    connect_ray(elsewhere)
    assert started[0].items() >= VARIABLES.items()
    assert "runtime_env" not in started[0]


def test_a_cluster_that_is_joined_is_told_and_a_submitted_job_s_own_variables_give_way(
    elsewhere: ClusterSettings, monkeypatch: pytest.MonkeyPatch
):
    joined: list[dict[str, Any]] = []

    def init(**settings: Any) -> None:
        joined.append(settings | {"override": os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"]})

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        connect_ray(elsewhere.model_copy(update={"address": address}))
        connect_ray(cluster(address=address))
    assert joined[0]["runtime_env"] == {"env_vars": VARIABLES}
    assert joined[0]["override"] == "1"
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES
    assert "runtime_env" not in joined[1]  # nothing is said: Ray gets what it got before


JOB_SCRIPT = """
import io, sys
import numpy as np
import soundfile
from raysem import config, storage
from raysem.audio.guarded_decode import GuardedDecoder
from raysem.audio.load import AudioSettings
from raysem.runs.cluster import ClusterSettings
from raysem.runs.launch import Job, main
from raysem.stages import Stage

class Recipe(config.Settings):
    cluster: ClusterSettings = ClusterSettings()

def run(folder):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(800, 0.25, np.float32), 8000, format="WAV", subtype="FLOAT")
    storage.write_bytes(storage.join(folder, "a.wav"), buffer.getvalue())
    with GuardedDecoder(AudioSettings(sample_rate=8000), max_seconds=60) as decoder:
        samples_T = decoder.load_clip(None, storage.join(folder, "a.wav"))
    return {"samples": len(samples_T), "level": float(samples_T.mean())}

nothing = lambda *_: []
job = Job(name="tiny", about="", recipe_type=Recipe, default_recipe="", default_output="",
          stages=lambda recipe, output: [Stage("work", run, needs_cluster=False)], preflight=nothing,
          check_resources=nothing, connect=nothing, finish=nothing, store=lambda recipe: recipe.cluster.storage)
sys.exit(main(job, sys.argv[1:]))
"""


def test_a_job_and_the_child_that_decodes_for_it_find_the_store_by_the_recipe_alone(
    store_server: FaultyStore, bucket: str, tmp_path: Path
):
    with socket.socket() as nobody:  # the environment's endpoint: bound and not listening, so it refuses
        nobody.bind(("127.0.0.1", 0))
        wrong = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if name not in ("AWS_DEFAULT_REGION", *UNSET)}
        environment |= {"AWS_ENDPOINT_URL": wrong, "AWS_MAX_ATTEMPTS": "1"}
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"cluster: {{storage: {{endpoint_url: {store_server.endpoint}, region: eu-west-3}}}}\n")
        command = [sys.executable, "-c", JOB_SCRIPT, "--recipe", str(recipe), "--output", f"{bucket}/run"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = storage.list_folders(f"{bucket}/run/work")[0]
    assert storage.read_json(f"{folder}/_done.json")["summary"] == {"samples": 800, "level": 0.25}
    kept = storage.read_bytes(f"{bucket}/run/recipe.yaml").decode()
    assert "region: eu-west-3" in kept
    assert "made-up" not in kept  # the credentials of the environment


def test_without_the_keys_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    before = dict(os.environ)
    ClusterSettings().storage.enter()
    assert dict(os.environ) == before
