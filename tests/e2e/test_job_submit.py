"""`ray job submit` of the main job from a fresh clone, to a cluster of this machine that asks for a token."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from head_node import HeadNode, copy_of_tracked_files, start_head

from raysem import storage
from raysem.config import load_recipe
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.sweeps.trial import TrialRecords

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LEFT = ("embed", "select", "student", "evaluate", "report")
"""Of the job's stages what runs on the cluster: embedding, selection, training."""


@pytest.fixture(scope="module")
def cluster(job: Any) -> Iterator[HeadNode]:
    """`ray start --head` as a user would, with two CPUs."""
    head = start_head(job.ray_folder / "head", job.environment, cpus=2)
    yield head
    job.kill(head.process)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_tracked_files(tmp_path_factory.mktemp("clone") / "raysem")


@pytest.fixture(scope="module")
def submitted(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this machine as if it had ended after its matching; the output of the job of the first test."""
    output = tmp_path_factory.mktemp("submitted") / "out"
    return shutil.copytree(finished[0], output, ignore=shutil.ignore_patterns(*LEFT, "summary.json"))


def test_the_job_goes_on_on_a_cluster_that_asks_for_a_token_and_leaves_it_running(
    job: Any, cluster: HeadNode, clone: Path, tmp_path: Path, submitted: Path
):
    output = submitted
    arguments = job.arguments(output, "--set", "cluster.local_cpus=null")
    (tmp_path / "other").write_text("another token, another token, another token")
    refused = cluster.submit(clone, *arguments, RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"))
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()
    assert not (output / "summary.json").exists()

    done = cluster.submit(clone, *arguments)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "succeeded" in done.stdout
    assert f"report: {output}/report/index.html" in done.stdout
    summary = storage.read_json(str(output / "summary.json"))
    assert summary["raysem"] == "0.0.0+clone"  # the code that came with the job, not one that is installed
    assert summary["counts"]["wild"]["clips"] == sum(summary["counts"]["wild"]["outcomes"].values()) == 80
    assert set(summary["models"]) == {"teacher", "student"}
    ran = re.findall(r"\] (\S+): done in", done.stdout + done.stderr)
    assert {"embed/wild", "student/student", "report"} <= set(ran)
    assert all(name.startswith(LEFT) for name in ran)
    assert (output / "report" / "index.html").stat().st_size > 10_000
    assert not (output / "_lock.json").exists()

    assert cluster.process.poll() is None
    assert cluster.answers()
    listed = cluster.ask("list")
    assert listed.returncode == 0
    assert "SUCCEEDED" in listed.stdout


SPACE = """
recipe: smoke.yaml
keys:
  student.objective.soft_label_weight: {uniform: [0.0, 1.0]}
  student.objective.replay_probability: {choice: [0.0, 0.5]}
metric: held_out_loss
direction: min
search: {kind: tpe, trials: 3}
scheduler: {kind: median, grace_steps: 5, min_trials: 2}
"""


def test_a_sweep_that_learns_from_its_trials_runs_there_on_the_stages_of_the_job(
    job: Any, cluster: HeadNode, clone: Path, tmp_path: Path, submitted: Path
):
    output = tmp_path / "sweep"
    output.mkdir()
    (output / "run").symlink_to(submitted)
    (clone / "tests" / "e2e" / "space.yaml").write_text(SPACE)
    arguments = ["tuning/sweep.py", "--space", "tests/e2e/space.yaml", "--output", str(output)]
    arguments += ["--set", f"{job.encoder_key}={job.text_encoder}", "--set", "cluster.local_cpus=null"]
    done = cluster.submit(clone, *arguments)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "succeeded" in done.stdout
    assert f"best: {output}/best.yaml" in done.stdout
    records = TrialRecords(str(output)).all().values()
    ends = [record.status for record in records]
    assert len(ends) == 3
    assert "finished" in ends
    assert set(ends) <= {"finished", "stopped"}
    assert len({str(record.params) for record in records}) == 3
    for record in records:
        shared = [how for name, how in record.stages.items() if not name.startswith("student/")]
        assert set(shared) == {"reused"}
    best = min((record for record in records if record.status == "finished"), key=lambda record: record.metric)
    found = load_recipe(CurateAndTrainRecipe, output / "best.yaml")
    assert found.student.objective.soft_label_weight == best.params["student.objective.soft_label_weight"]
    assert cluster.answers()


def test_a_job_that_fails_says_so_in_one_line_and_in_its_status(
    job: Any, cluster: HeadNode, clone: Path, tmp_path: Path
):
    done = cluster.submit(clone, *job.arguments(tmp_path / "out", "--set", "curation.strategy=DUU"))
    assert done.returncode == 1
    (submission,) = set(re.findall(r"raysubmit_\w+", done.stdout + done.stderr))
    # Of a job that ends at once `submit` may have shown nothing yet when it ends too.
    printed = cluster.ask("logs", submission).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("curate_and_train: ")]
    assert line.endswith("curation.strategy: expected 'DU', 'DS' or 'ADS', got 'DUU'")
    assert "Traceback" not in printed
    assert cluster.answers()
