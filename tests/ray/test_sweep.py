"""A sweep on the Ray of this folder: what is shared, what is stopped, what fails, what the cluster has afterwards."""

from __future__ import annotations

import csv
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from raysem import storage
from raysem.sweeps.command import main
from raysem.sweeps.trial import TrialRecord, TrialRecords

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SMOKE = Path(__file__).parents[1] / "e2e" / "smoke.yaml"
RATE, THRESHOLD = "student.training.learning_rate", "curation.similarity_threshold"
# With a rate of 0.3 all embeddings become one, and the loss that of chance, log 16; with one of 0.0001 a student of a
# teacher that has hardly learned anything is worse than that after 20 steps. No pair is above 0.999.
SPACE = f"""
title: Two rates, and a threshold that keeps nothing
recipe: {SMOKE}
set:
  teacher.training.steps: 10
  teacher.training.evaluate_every_steps: 10
  curation.top_k_per_clip: null
  curation.match_floor: -1.0
  student.training.steps: 100
  student.training.evaluate_every_steps: 20
  student.training.checkpoint_every_steps: 50
  corpora.rows_per_shard: 20
  cluster.training_workers: 2
keys:
  {THRESHOLD}: {{grid: [-1.0, 0.999]}}
  {RATE}: {{grid: [0.3, 0.0001]}}
metric: held_out_loss
direction: min
scheduler: {{kind: asha, grace_steps: 20, reduction_factor: 2}}
max_failed_trials: 2
"""


@pytest.fixture(scope="module")
def held_before() -> tuple[float, set[str]]:
    """What earlier tests of this session still hold: the free CPUs, and the placement groups that are there."""
    return ray.available_resources().get("CPU", 0.0), groups_there()


def groups_there() -> set[str]:
    table = ray.util.placement_group_table()
    return {name for name, group in table.items() if group["state"] != "REMOVED"}


@pytest.fixture(scope="module")
def sweep(
    tmp_path_factory: pytest.TempPathFactory, bert_folder: Path, held_before: Any
) -> tuple[Path, dict[tuple, TrialRecord]]:
    """A finished sweep of four trials, and its records by threshold and rate."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "space.yaml").write_text(SPACE)
    status = main(
        ["--space", str(folder / "space.yaml"), "--output", str(folder / "out"),
         "--set", f"teacher.model.text.name={bert_folder}"]
    )  # fmt: skip
    assert status == 0
    records = TrialRecords(str(folder / "out")).all().values()
    return folder / "out", {tuple(record.params.values()): record for record in records}


def attempts(output: Path) -> Counter[str]:
    """How often each stage was begun, over all its digests."""
    found = output.glob("run/**/attempts/*.json")
    return Counter(str(file.parent.parent.parent.relative_to(output / "run")) for file in found)


def test_the_teacher_and_the_embedder_are_called_once_and_in_no_trial(sweep: Any):
    output, records = sweep
    begun = attempts(output)
    for stage in ("teacher", "embed/wild", "embed/captions", "match"):
        assert begun[stage] == 1
        for record in records.values():
            assert record.stages.get(stage, "reused") == "reused"
    # What is embedded lies in one folder, whose done-records are as many as its shards.
    (embedded,) = (output / "run" / "embed" / "wild").iterdir()
    assert len(list((embedded / "done").glob("*.json"))) == storage.read_json(str(embedded / "plan.json"))["shards"]
    assert records[-1.0, 0.3].stages["student/student"] == "ran"


def test_what_is_worse_is_stopped_before_its_training_ends(sweep: Any):
    _, records = sweep
    stopped = records[-1.0, 0.0001]
    assert (stopped.status, stopped.reason) == ("stopped", f"by the scheduler, after step {stopped.curve[-1]['step']}")
    assert 20 <= stopped.curve[-1]["step"] < 100
    assert stopped.metric == stopped.curve[-1]["metric"] > math.log(16)
    assert stopped.stages["student/student"] == "ran"
    assert stopped.facts == records[-1.0, 0.3].facts
    finished = records[-1.0, 0.3]
    assert finished.status == "finished"
    assert [point["step"] for point in finished.curve] == list(range(20, 101, 20))
    assert finished.metric == min(point["metric"] for point in finished.curve)


def test_a_failing_trial_says_why_and_loses_no_other(sweep: Any):
    output, records = sweep
    for rate in (0.0001, 0.3):
        failed = records[0.999, rate]
        assert failed.status == "failed"
        assert "no pair passes the rule" in failed.reason
        assert "\n" not in failed.reason
    with (output / "trials.csv").open() as file:
        ends = Counter(row["status"] for row in csv.DictReader(file))
    assert ends == {"finished": 1, "stopped": 1, "failed": 2}


def test_the_cluster_has_all_its_resources_back(held_before: Any, sweep: Any):
    free, groups = held_before
    until(lambda: ray.available_resources().get("CPU", 0.0) >= free)
    until(lambda: groups_there() <= groups)


def test_test_sets_are_scored_once_for_the_best_trial_alone(sweep: Any):
    output, records = sweep
    begun = attempts(output)
    assert begun["evaluate/scores"] == begun["evaluate/synthetic/student"] == begun["report"] == 1
    assert not any(name.startswith(("evaluate/", "report")) for record in records.values() for name in record.stages)
    summary = storage.read_json(str(output / "run" / "summary.json"))
    assert summary["recipe"]["student"]["training"]["learning_rate"] == 0.3
    low, high = summary["evaluation"]["student"]["zero_shot"]["synthetic"]["interval"]
    assert 0 <= low <= high <= 1


def test_the_same_sweep_again_trains_nothing(sweep: Any, tmp_path: Path, bert_folder: Path, capsys: Any):
    output, before = sweep
    begun = attempts(output)
    space = output.parent / "space.yaml"
    again = ["--space", str(space), "--output", str(output), "--set", f"teacher.model.text.name={bert_folder}"]
    assert main(again) == 0
    assert {name: count for name, count in attempts(output).items() if name.startswith("student")} == {
        "student/student": begun["student/student"]
    }
    after = {tuple(record.params.values()): record for record in TrialRecords(str(output)).all().values()}
    assert after[-1.0, 0.0001] == before[-1.0, 0.0001]
    assert after[-1.0, 0.3] == before[-1.0, 0.3]
    changed = tmp_path / "changed.yaml"
    changed.write_text(space.read_text().replace("[0.3,", "[0.2,"))
    capsys.readouterr()
    assert main(["--space", str(changed), *again[2:]]) == 2
    said = capsys.readouterr().err
    assert f"keys.{RATE}.grid: [0.3, 0.0001] -> [0.2, 0.0001]" in said
    assert "--fresh" in said


def test_too_many_failures_side_by_side_end_the_sweep_with_the_first_reason(
    tmp_path: Path, bert_folder: Path, sweep: Any, capsys: Any, caplog: pytest.LogCaptureFixture
):
    output, _ = sweep
    caplog.set_level(logging.INFO)
    # Beside the stages of the other sweep: nothing is trained here. Two trials at a time want the same selection.
    text = SPACE.replace("grid: [-1.0, 0.999]", "grid: [0.9991, 0.9995]").replace("kind: asha, grace_steps: 20, ", "")
    (tmp_path / "space.yaml").write_text(text.replace("max_failed_trials: 2", "max_failed_trials: 1"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run").symlink_to(output / "run")
    arguments = ["--space", str(tmp_path / "space.yaml"), "--output", str(tmp_path / "out")]
    arguments += ["--set", f"teacher.model.text.name={bert_folder}", "--set", "cluster.trainings_at_once=2"]
    assert main(arguments) == 1
    assert "max_concurrent_trials 2" in caplog.text
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(r"sweep: stopped: [234] trials failed, max_failed_trials is 1; the first: ", last)
    assert "no pair passes the rule" in last
    records = TrialRecords(str(tmp_path / "out")).all()
    assert 2 <= sum(record.status == "failed" for record in records.values()) <= len(records)
    assert not any(record.status in ("stopped", "finished") for record in records.values())


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
