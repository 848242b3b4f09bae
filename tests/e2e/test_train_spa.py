"""The tagging job from its command line: finished, repeated, killed, on two workers, with mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysem.curation.embeddings import read_embeddings
from raysem.listening.predictions import read_predictions
from raysem.models.tagger_checkpoint import load_tagger, read_tagger_config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

Refused = Callable[..., tuple[int, list[str]]]


def only_folder(parent: Path) -> Path:
    (folder,) = [path for path in parent.iterdir() if path.is_dir()]
    return folder


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tagging_job: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The output of one uninterrupted run, and what it printed."""
    output = tmp_path_factory.mktemp("tagging") / "run"
    done = tagging_job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    return output, done


def test_the_summary_has_every_number_of_both_taggers(finished: Any):
    output, done = finished
    summary = summary_of(output)
    assert set(summary["models"]) == set(summary["evaluation"]) == {"one-hot", "SPA"}
    for name, parts in summary["evaluation"].items():
        result = parts["tagging"]["synthetic"]
        count = summary["counts"]["evaluation/synthetic"]
        assert count["clips"] == sum(count["outcomes"].values()) == result["num_clips"] + result["num_unscored"]
        assert 0 < result["mAP"] < 1
        assert result["OmAP_interval"][0] <= result["OmAP"] <= result["OmAP_interval"][1]
        assert 0 < result["random_floor"]["OmAP"] < 1
        assert len(result["per_class"]) == summary["classes"]["classes"] == 35
        assert f"synthetic, {name}: mAP {result['mAP']:.3f}" in done.stdout
        assert summary["models"][name]["training"]["best_step"] in (20, 40)
    assert [(d["student"], d["baseline"]) for d in summary["differences"]] == [("SPA", "one-hot")] * 2
    assert [entry["models"] for entry in summary["moved_confusions"]] == [["one-hot", "SPA"]]
    assert -1 <= summary["classes"]["texts"]["rank_correlation"] <= 1


def test_the_scores_are_those_of_the_written_taggers(finished: Any):
    output, _ = finished
    for name in ("one-hot", "SPA"):
        ids, scores_NK = read_embeddings(str(only_folder(output / "evaluate" / "synthetic" / name)))
        tagger = load_tagger(str(only_folder(output / "tagger" / name) / "model"))
        assert scores_NK.shape == (len(ids), tagger.num_classes)
        shards = only_folder(output / "evaluate" / "synthetic" / name) / "shards"
        top = read_predictions(str(shards)).top_tags(ids.to_pylist()[:1], 1)
        assert next(iter(top.values()))[0].name == tagger.class_names[scores_NK[0].argmax()]
        assert ((scores_NK >= 0) & (scores_NK <= 1)).all()
        assert tagger.fingerprint() == summary_of(output)["models"][name]["fingerprint"]
    config = read_tagger_config(str(only_folder(output / "tagger" / "SPA") / "model"))
    assert config.extra["parents"]["Bark"] == ["Dog"]
    assert np.ndim(scores_NK) == 2


def test_the_report_is_one_file_that_asks_for_nothing(finished: Any):
    output, done = finished
    page = (output / "report" / "index.html").read_text()
    assert f"report: {output}/report/index.html" in done.stdout
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert [text for text in references if not text.startswith(("data:", "#"))] == []
    assert "data:audio/" in page
    assert not re.search(r"https?://", re.sub(r'"data:[^"]*"', "", page).replace("http://www.w3.org/", ""))


def test_the_same_command_again_skips_everything_and_starts_no_ray(tagging_job: Any, finished: Any):
    output, _ = finished
    sessions = tagging_job.ray_sessions()
    done = tagging_job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "0 stages run, " in done.stdout
    assert tagging_job.ray_sessions() == sessions > 0


def test_a_changed_loss_weight_trains_that_tagger_alone(tagging_job: Any, finished: Any):
    output, _ = finished
    changed = tagging_job.run(output, "--dry-run", "--set", "variants.SPA={tagger.objective.spa_weight: 0.5}")
    assert changed.returncode == 0, changed.stderr[-5000:]
    stages = {name: what for what, name in re.findall(r"^#   (skip|run) +(\S+)", changed.stdout, re.M)}
    assert {name for name, what in stages.items() if what == "run"} == {
        "tagger/SPA", "evaluate/synthetic/SPA", "evaluate/scores", "report",
    }  # fmt: skip


def test_a_run_killed_in_training_ends_as_an_uninterrupted_one(tagging_job: Any, finished: Any, tmp_path: Path):
    output, _ = finished
    killed = shutil.copytree(output, tmp_path / "killed")
    for gone in ("tagger/SPA", "evaluate/synthetic/SPA", "evaluate/scores", "report", "summary.json"):
        (shutil.rmtree if (killed / gone).is_dir() else os.remove)(killed / gone)
    tagging_job.start_and_kill(killed, "tagger/SPA/*/checkpoints/step_00000015/.complete.json.*")
    done = tagging_job.run(killed)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "goes on after step 10 of 40" in done.stderr
    whole, again = summary_of(output), summary_of(killed)
    assert {n: m["fingerprint"] for n, m in again["models"].items()} == {
        n: m["fingerprint"] for n, m in whole["models"].items()
    }
    assert again["evaluation"] == whole["evaluation"]
    metrics = (only_folder(killed / "tagger" / "SPA") / "metrics.jsonl").read_text().splitlines()
    steps = [(record["kind"], record["step"]) for record in map(json.loads, metrics)]
    assert len(steps) == len(set(steps))


def test_two_workers_train_and_score_every_clip_once(tagging_job: Any, tmp_path: Path):
    output = tmp_path / "two"
    done = tagging_job.run(output, "--set", "cluster.training_workers=2", "--set", "variants={}")
    assert done.returncode == 0, done.stderr[-5000:]
    metrics = [json.loads(line) for line in (only_folder(output / "tagger/tagger") / "metrics.jsonl").open()]
    assert {record["clips"] for record in metrics if record["kind"] == "held_out"} == {24.0}
    assert {record["clips"] for record in metrics if record["kind"] == "synthetic"} == {30.0}
    assert summary_of(output)["evaluation"]["tagger"]["tagging"]["synthetic"]["num_clips"] == 30


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tagger.model.encoder=cnn15", "tagger.model.encoder: "),
        ("tagger.objective.spa_weight=1 --set tagger.model.projection=none", "model.projection: is none"),
        ("evaluation.baseline=nobody", "evaluation.baseline: no tagger 'nobody'; there are one-hot, SPA"),
        ("classes.ontology.file=/nowhere.json", "classes.ontology.file: no such file: /nowhere.json"),
        ("tagger.training.batch_size=9", "tagger.training.batch_size: "),
    ],
)
def test_a_mistake_is_one_line_before_ray_starts(
    tagging_job: Any, refused_here: Refused, tmp_path: Path, setting: str, message: str
):
    more = ["--set", "cluster.training_workers=2"] if "batch_size" in setting else []
    first, *others = setting.split(" --set ")
    for other in others:
        more += ["--set", other]
    status, said = refused_here(tagging_job, tmp_path / "run", "--set", first, *more)
    assert status == 2
    (line,) = said
    assert line.startswith("train_spa: ")
    assert message in line


def test_a_mistake_is_the_status_of_the_script(tagging_job: Any, tmp_path: Path):
    sessions = tagging_job.ray_sessions()
    done = tagging_job.run(tmp_path / "run", "--set", "tagger.model.encoder=cnn15")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("train_spa: ")
    assert "tagger.model.encoder: expected " in line
    assert tagging_job.ray_sessions() == sessions
