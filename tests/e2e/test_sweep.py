"""The sweep script from its command line: refused, finished, killed and resumed, its best recipe run by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysem import storage
from raysem.sweeps.trial import TrialRecord, TrialRecords

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
THRESHOLD, ALPHA = "curation.similarity_threshold", "student.objective.soft_label_weight"
SPACE = f"""
title: smoke
recipe: {HERE / "smoke.yaml"}
set:
  student.training.steps: 20
keys:
  {THRESHOLD}: {{grid: [0.25, 0.3]}}
  {ALPHA}: {{grid: [0.5]}}
metric: held_out_loss
direction: min
"""
COUNTING = SPACE.replace("held_out_loss", "mean_similarity").replace("direction: min", "").replace(
    f"{ALPHA}: {{grid: [0.5]}}", "curation.top_k_per_clip: {grid: [1, null]}"
)  # fmt: skip
WaitUntil = Callable[[Callable[[], bool], "subprocess.Popen[str] | None"], None]


def start(job: Any, folder: Path, space: str, output: Path, *more: str) -> subprocess.Popen[str]:
    file = folder / "space.yaml"
    file.write_text(space)
    command = [sys.executable, "tuning/sweep.py", "--space", str(file), "--output", str(output)]
    command += ["--set", f"{job.encoder_key}={job.text_encoder}", *more]
    return subprocess.Popen(
        command, cwd=ROOT, env=job.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def run(job: Any, folder: Path, space: str, output: Path, *more: str) -> tuple[int, str]:
    """Exit status and all that it printed."""
    process = start(job, folder, space, output, *more)
    try:
        said, _ = process.communicate(timeout=840)
    except subprocess.TimeoutExpired:
        job.kill(process)
        raise
    return process.returncode, said


def records_of(output: Path) -> dict[str, TrialRecord]:
    return TrialRecords(str(output)).all()


def attempts(output: Path, stage: str) -> int:
    return len(list((output / "run").glob(f"{stage}/*/attempts/*.json")))


@pytest.fixture(scope="module")
def resumed(
    job: Any, finished: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, TrialRecord], str]:
    """A sweep that was killed after a trial or two and run again; the records before, and what it said at last.

    It begins with the stages that a job has left there.
    """
    folder = tmp_path_factory.mktemp("sweep")
    output = folder / "out"
    left = ("select", "student", "evaluate", "report", "run.json", "summary.json")
    shutil.copytree(finished[0], output / "run", ignore=shutil.ignore_patterns(*left))
    process = start(job, folder, SPACE, output)
    try:
        while process.poll() is None:
            found = records_of(output).values()
            if sum(record.status == "finished" for record in found) >= 1 and len(found) >= 2:
                break
            try:
                process.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() is None
    finally:
        job.kill(process)
    before = records_of(output)
    status, said = run(job, folder, SPACE, output)
    assert status == 0, said[-5000:]
    return output, before, said


def test_a_killed_sweep_keeps_what_was_finished_and_ends_with_every_trial(resumed: Any):
    output, before, said = resumed
    after = records_of(output)
    assert len(after) == 2
    assert {record.status for record in after.values()} == {"finished"}
    kept = [record for record in before.values() if record.status == "finished"]
    assert kept
    for record in kept:
        assert after[record.id] == record
    assert f"{len(kept)} trials were finished before and are kept" in said
    assert "max_concurrent_trials 1" in said


def test_no_trial_embeds_scores_or_trains_what_another_one_did(resumed: Any):
    output, _, _ = resumed
    for stage in ("teacher", "embed/wild", "embed/captions", "match"):
        assert attempts(output, stage) == 1
    assert len(list((output / "run" / "student" / "student").iterdir())) == 2
    selections = [folder for name in (output / "run" / "select").glob("DU_*") for folder in name.iterdir()]
    assert len(selections) == 2
    for record in records_of(output).values():
        assert {how for name, how in record.stages.items() if not name.startswith(("select/", "student/"))} == {
            "reused"
        }


def test_the_best_recipe_gives_the_same_numbers_when_it_is_run_by_itself(
    resumed: Any, finished: Any, job: Any, tmp_path: Path
):
    output, _, _ = resumed
    records = records_of(output).values()
    best = min(records, key=lambda record: record.metric if record.metric is not None else 1e9)
    # Up to its selection it is the job that `finished` ran by itself.
    shutil.copytree(
        finished[0], tmp_path / "alone", ignore=shutil.ignore_patterns("select", "student", "scores", "report")
    )
    command = [sys.executable, "jobs/curate_and_train.py", "--recipe", str(output / "best.yaml")]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "alone")], cwd=ROOT, env=job.environment, capture_output=True, text=True,
        timeout=840,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    alone, swept = (storage.read_json(str(folder / "summary.json")) for folder in (tmp_path / "alone", output / "run"))
    assert alone["models"]["student"]["training"]["best_metrics"]["held_out_loss"] == best.metric
    assert alone["models"]["student"]["fingerprint"] == swept["models"]["student"]["fingerprint"]
    assert alone["evaluation"] == swept["evaluation"]
    for stage in ("select", "student"):
        assert any(name.startswith(stage) for name in re.findall(r"\] (\S+): done in", done.stderr)), stage


def test_the_tables_and_the_page_are_there_and_the_page_asks_for_nothing(resumed: Any):
    output, _, said = resumed
    assert len((output / "trials.csv").read_text().splitlines()) == 3
    assert len((output / "settings.csv").read_text().splitlines()) == 3
    page = (output / "report" / "index.html").read_text()
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert [text for text in references if not text.startswith(("data:", "#"))] == []
    assert f"report: {output}/report/index.html" in said
    assert re.search(r"synthetic zero-shot accuracy, student: 0\.\d+ \[", said)


def test_thresholds_alone_are_counted_without_training(resumed: Any, job: Any, tmp_path: Path):
    output, _, _ = resumed
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run").symlink_to(output / "run")
    before = attempts(output, "student/student"), attempts(output, "select/DU_0.25")
    status, said = run(job, tmp_path, COUNTING, tmp_path / "out")
    assert status == 0, said[-5000:]
    assert (attempts(output, "student/student"), attempts(output, "select/DU_0.25")) == before
    found = {tuple(record.params.values()): record.facts for record in records_of(tmp_path / "out").values()}
    swept = {record.params[THRESHOLD]: record.facts for record in records_of(output).values()}
    for threshold, facts in swept.items():
        # The recipe keeps two captions a clip; the trained sweep's facts are those of the sets that it has left.
        assert found[threshold, 1]["pairs"] <= facts["pairs"] <= found[threshold, None]["pairs"]
        assert found[threshold, 1]["clips"] == facts["clips"] == found[threshold, None]["clips"]


def test_an_impossible_space_is_refused_in_one_line_before_ray_starts(job: Any, tmp_path: Path):
    sessions = job.ray_sessions()
    space = SPACE.replace("direction: min", "direction: max")  # the others: tests/unit/sweeps/test_command.py
    status, printed = run(job, tmp_path, space, tmp_path / "out")
    assert status == 2
    (line,) = [line for line in printed.splitlines() if line.startswith("sweep: ")]
    assert "better when it is less" in line
    assert job.ray_sessions() == sessions
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_the_trials_and_what_each_runs(job: Any, tmp_path: Path):
    status, said = run(job, tmp_path, SPACE, tmp_path / "out", "--dry-run")
    assert status == 0
    assert (
        len(
            re.findall(
                r"^[0-9a-f]{8}  similarity_threshold=0\.\d+, .* \[select/DU_0\.\d+, student/student\]$", said, re.M
            )
        )
        == 2
    )
    assert re.search(r"^#   match [0-9a-f]+$", said, re.M)
    assert not (tmp_path / "out").exists()
