"""The main job from its command line: finished, repeated, changed, interrupted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raysem import storage
from raysem.ledger import Ledger
from raysem.locks import run_lock
from raysem.tables import KEPT, REJECT_OUTCOMES

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

WaitUntil = Callable[[Callable[[], bool], "subprocess.Popen[str] | None"], None]


def only_folder(parent: Path) -> Path:
    """The folder of a stage: the one named by its digest."""
    (folder,) = [path for path in parent.iterdir() if path.is_dir()]
    return folder


def read_shards(folder: Path, kind: str = "shards") -> dict[str, pa.Table]:
    return {storage.name_of(file): storage.read_table(file) for file in Ledger(str(folder)).files(kind)}


def stages_in(text: str) -> dict[str, str]:
    """What a dry run says of each stage: `run` or `skip`."""
    return {name: what for what, name in re.findall(r"^#   (skip|run) +(\S+)", text, re.M)}


def attempts(output: Path) -> dict[str, int]:
    """How often each stage was begun."""
    return dict(Counter(str(file.parent.parent.relative_to(output)) for file in output.glob("**/attempts/*.json")))


@pytest.fixture(scope="module")
def copied(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run to start again: that of `finished` is there for all test processes."""
    return shutil.copytree(finished[0], tmp_path_factory.mktemp("copied") / "run")


def test_the_summary_is_complete_and_its_counts_add_up(finished: Any):
    output, done = finished
    summary = storage.read_json(str(output / "summary.json"))
    plan = storage.read_json(str(output / "run.json"))["stages"]
    names = [stage["name"] for stage in plan]
    assert list(summary["stages"]) == names[: len(summary["stages"])]
    assert set(names) - set(summary["stages"]) == {"report"}
    assert all(stage["attempts"] == 1 for stage in summary["stages"].values())
    wild = summary["counts"]["wild"]
    assert wild["clips"] == sum(wild["outcomes"].values()) == 80
    (hidden,) = output.glob("corpora/synthetic/*/hidden_labels.parquet")
    known = storage.read_table(str(hidden)).to_pylist()
    expected = {row["clip_id"]: row["outcome"] for row in known if row["outcome"]}
    rejects = pa.concat_tables(read_shards(only_folder(output / "embed" / "wild"), "rejects").values()).to_pylist()
    assert {row["clip_id"]: row["outcome"] for row in rejects} == expected
    assert wild["outcomes"] == {KEPT: 80 - len(expected), **Counter(expected.values())}
    assert set(expected.values()) <= set(REJECT_OUTCOMES)
    pairs = read_shards(only_folder(output / "match"))
    assert summary["counts"]["match"]["pairs"] == summary["curation"]["pairs"] == sum(map(len, pairs.values()))
    (rule,) = summary["curation"]["improvement_sets"].values()
    kept = [
        row for table in read_shards(only_folder(output / "select" / "DU_0.3")).values() for row in table.to_pylist()
    ]
    assert rule["num_clips"] == len(kept)
    assert rule["num_pairs"] == sum(len(row["captions"]) for row in kept)
    assert all(pair["similarity"] >= 0.3 for row in kept for pair in row["captions"])
    assert set(summary["models"]) == set(summary["evaluation"]) == {"teacher", "student"}
    for scores in summary["evaluation"].values():
        assert 0 <= scores["zero_shot"]["synthetic"]["accuracy"] <= 1
    recipe = storage.read_bytes(str(output / "recipe.yaml")).decode()
    assert "similarity_threshold: 0.3" in recipe
    assert f"{len(names)} stages run, 0 skipped" in done.stdout


def test_the_report_is_one_file_that_asks_for_nothing(finished: Any):
    output, done = finished
    page = (output / "report" / "index.html").read_text()
    assert f"report: {output}/report/index.html" in done.stdout
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert [text for text in references if not text.startswith(("data:", "#"))] == []
    assert "data:audio/" in page
    assert not re.search(r"https?://", re.sub(r'"data:[^"]*"', "", page).replace("http://www.w3.org/", ""))


def test_the_same_command_again_skips_everything_and_starts_no_ray(job: Any, copied: Path):
    before, sessions = attempts(copied), job.ray_sessions()
    done = job.run(copied)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"0 stages run, {len(before)} skipped (finished before)" in done.stdout
    assert "skipped: corpora/synthetic, " in done.stdout
    assert attempts(copied) == before
    assert job.ray_sessions() == sessions


def test_a_dry_run_shows_the_stages_and_runs_nothing(job: Any, copied: Path, tmp_path: Path):
    before, sessions = attempts(copied), job.ray_sessions()
    done = job.run(tmp_path / "new", "--dry-run", "--until", "match")
    assert done.returncode == 0, done.stderr[-5000:]
    assert not (tmp_path / "new").exists()
    names = [stage["name"] for stage in storage.read_json(str(copied / "run.json"))["stages"]]
    assert stages_in(done.stdout) == dict.fromkeys(names[: names.index("match") + 1], "run")
    changed = job.run(copied, "--dry-run", "--set", "curation.similarity_threshold=0.4")
    after = ["select/statistics", "student/student", "evaluate/synthetic/student", "evaluate/scores", "report"]
    would = dict.fromkeys(names, "skip") | dict.fromkeys(["select/DU_0.4", *after], "run")
    del would["select/DU_0.3"]
    assert stages_in(changed.stdout) == would
    assert (attempts(copied), job.ray_sessions()) == (before, sessions)


def test_a_changed_threshold_runs_only_what_it_touches_and_says_so(job: Any, copied: Path):
    before = attempts(copied)
    done = job.run(copied, "--set", "curation.similarity_threshold=0.4", "--until", "select")
    assert done.returncode == 0, done.stderr[-5000:]
    assert "curation.similarity_threshold: 0.3 -> 0.4" in done.stderr
    assert "2 stages run, " in done.stdout
    new = set(attempts(copied)) - set(before)
    assert {folder.rsplit("/", 1)[0] for folder in new} == {"select/DU_0.4", "select/statistics"}
    fewer = read_shards(only_folder(copied / "select" / "DU_0.4"))
    more = read_shards(only_folder(copied / "select" / "DU_0.3"))
    assert 0 < sum(map(len, fewer.values())) <= sum(map(len, more.values()))


def test_fresh_runs_finished_stages_again_to_the_same_content(job: Any, copied: Path):
    folder = only_folder(copied / "embed" / "captions")
    before = read_shards(folder), (folder / "_done.json").stat().st_mtime_ns
    done = job.run(copied, "--fresh", "--until", "captions")
    assert done.returncode == 0, done.stderr[-5000:]
    assert "6 stages run, 0 skipped" in done.stdout
    # What comes after it has the same inputs as before, and stays.
    assert job.run(copied, "--until", "embed/captions").returncode == 0
    assert (read_shards(folder), (folder / "_done.json").stat().st_mtime_ns) == before


def test_status_reads_the_files_of_a_run(job: Any, copied: Path):
    command = [sys.executable, "-m", "raysem.cli", "status", str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, env=job.environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"finished  embed/wild .* 20 of 20 shards, 80 rows \(.*kept \d+", done.stdout)
    assert "driver at work: none" in done.stdout
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300).stdout)
    assert found["stages"][0]["state"] == "finished"


def test_a_second_driver_is_refused_with_the_name_of_the_first(job: Any, copied: Path):
    with run_lock(str(copied)):
        done = job.run(copied)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("curate_and_train: ")]
    assert f"process {os.getpid()} on " in line
    assert "Traceback" not in done.stderr


def test_a_mistake_in_the_recipe_is_one_line_before_ray_starts(job: Any, tmp_path: Path):
    sessions = job.ray_sessions()
    done = job.run(tmp_path / "out", "--set", "curation.similarity_treshold=0.4")
    assert done.returncode == 2
    assert "curation.similarity_treshold" in done.stderr
    assert "similarity_threshold" in done.stderr
    assert "Traceback" not in done.stderr
    assert job.ray_sessions() == sessions
    assert not (tmp_path / "out").exists()


def test_a_mistake_that_only_a_worker_can_see_is_one_line_too(job: Any, tmp_path: Path):
    done = job.run(tmp_path / "out", "--set", "teacher.model.text.max_tokens=90", "--until", "teacher")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("curate_and_train: ")]
    assert "reads at most 40 tokens, got 90" in line


def test_ctrl_c_ends_with_one_line_and_leaves_no_ray_behind(job: Any, tmp_path: Path, wait_until: WaitUntil):
    output = tmp_path / "interrupted"
    process = job.start(output, "--until", "teacher")
    wait_until(lambda: any(output.glob("teacher/*/attempts/*.json")), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert process.wait(timeout=300) == 130
    text = (tmp_path / "interrupted.log").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("curate_and_train: ")]
    assert line == "curate_and_train: interrupted; the same command goes on from what is finished"
    assert "KeyboardInterrupt" not in text
    assert not (output / "_lock.json").exists()
    wait_until(lambda: job.ray_processes() == [], None)


ADS = (
    # The test clips are in the pool too, and some clips of the pool twice: what the screen is there to find.
    "corpora.wild=[{corpus: synthetic, part: wild}, {corpus: synthetic, part: test}]",
    "corpora.synthetic.wild_clips=40",
    "corpora.synthetic.exact_duplicate_share=0.1",
    "corpora.rows_per_shard=20",
    "curation.strategy=ADS",
    "curation.similarity_threshold=0.23",
    "curation.caption_threshold=0.96",
    "curation.exclude_overlap_similarity=0.999999",
    "curation.duplicate_similarity=0.999999",
    "teacher.training.steps=20",
    "student.training.steps=6",
    "cluster.training_workers=2",
)
"""The smoke recipe as ADS with screening, replay of what DS keeps, and two ranks of half a CPU each. A teacher of 20
steps finds all clips alike: only the same audio is above 0.999999, and captions differ little from labels."""


@pytest.fixture(scope="module")
def screened(job: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    output = tmp_path_factory.mktemp("screened") / "run"
    done = job.run(output, *(word for setting in ADS for word in ("--set", setting)))
    assert done.returncode == 0, done.stderr[-5000:]
    return output, done


def test_the_screen_finds_test_clips_and_repeated_clips_and_no_rule_sees_them_again(screened: Any):
    output, _ = screened
    rejects = storage.read_table(str(only_folder(output / "screen") / "rejects.parquet")).to_pylist()
    outcome_of = {row["clip_id"]: row["outcome"] for row in rejects}
    assert len(outcome_of) == len(rejects)
    assert {outcome_of.get(f"test_{index:06d}") for index in range(30)} == {"excluded_overlap"}
    (hidden,) = output.glob("corpora/synthetic/*/hidden_labels.parquet")
    known = storage.read_table(str(hidden)).to_pylist()
    repeated = [(row["clip_id"], row["duplicate_of"]) for row in known if row["kind"] == "exact_duplicate"]
    assert len(repeated) == 4
    assert all("duplicate" in (outcome_of.get(copy), outcome_of.get(original)) for copy, original in repeated)
    counts = storage.read_json(str(output / "summary.json"))["counts"]
    assert counts["wild"]["clips"] == sum(counts["wild"]["outcomes"].values()) == 70
    assert counts["screen"]["clips"] == sum(counts["screen"]["outcomes"].values()) == counts["wild"]["outcomes"][KEPT]
    assert counts["screen"]["outcomes"] == {
        KEPT: counts["screen"]["clips"] - len(rejects),
        **Counter(outcome_of.values()),
    }
    kept = improvement_set(output, "ADS_0.23")
    assert kept
    assert not {row["clip_id"] for row in kept} & set(outcome_of)


def test_ads_takes_the_captions_that_ds_keeps_and_both_are_trained_on(screened: Any):
    output, _ = screened
    ads, ds = (
        {caption["caption_id"] for row in improvement_set(output, name) for caption in row["captions"]}
        for name in ("ADS_0.23", "DS_0.96")
    )
    assert ads
    assert ads <= ds
    assert len(ds) < storage.read_json(str(output / "summary.json"))["curation"]["num_captions"]
    sources = storage.read_json(str(only_folder(output / "student" / "student") / "_done.json"))["inputs"]
    assert {"select/ADS_0.23", "select/DS_0.96"} <= set(sources)


def test_two_ranks_train_teacher_and_student_each_on_its_half_of_every_batch(screened: Any):
    output, done = screened
    summary = storage.read_json(str(output / "summary.json"))
    for name, steps in {"teacher": 20, "student": 6}.items():
        training = summary["models"][name]["training"]
        assert (training["steps"], training["clips_loaded"]) == (steps, steps * 8)
        assert summary["stages"][name if name == "teacher" else f"student/{name}"]["attempts"] == 1
    assert len(re.findall(r"Started training worker group of size 2", done.stderr)) == 2
    assert (output / "report" / "index.html").stat().st_size > 10_000


def improvement_set(output: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a rule of selection."""
    shards = read_shards(only_folder(output / "select" / name)).values()
    return [row for table in shards for row in table.to_pylist()]
