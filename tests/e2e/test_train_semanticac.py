"""The cross-validation job from its command line: finished, repeated, killed, folds side by side, with mistakes."""

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
from raysem.models.classifier_checkpoint import load_classifier

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

Refused = Callable[..., tuple[int, list[str]]]


def only_folder(parent: Path) -> Path:
    (folder,) = [path for path in parent.iterdir() if path.is_dir()]
    return folder


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


def steps_of(stage: Path) -> list[dict[str, Any]]:
    """The records of a training, without the times."""
    records = [json.loads(line) for line in (only_folder(stage) / "metrics.jsonl").read_text().splitlines()]
    timed = ("clips_per_second", "seconds")
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


@pytest.fixture(scope="module")
def finished(classification_job: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The output of one uninterrupted run, fold after fold, and what it printed."""
    output = tmp_path_factory.mktemp("classification") / "run"
    done = classification_job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    return output, done


def test_the_summary_has_every_fold_of_both_classifiers(finished: Any):
    output, done = finished
    summary = summary_of(output)
    assert set(summary["models"]) == set(summary["evaluation"]) == {"baseline", "cscm"}
    assert len(summary["labels"]) == 15
    assert sum(summary["counts"][fold]["clips"] for fold in ("fold1", "fold2")) == 150
    for name, parts in summary["evaluation"].items():
        result = parts["classification"]
        assert [fold["fold"] for fold in result["by_fold"]] == [1, 2]
        for fold in result["by_fold"]:
            count = summary["counts"][f"fold{fold['fold']}"]
            assert count["clips"] == sum(count["outcomes"].values()) == fold["num_clips"] + fold["num_unscored"]
        accuracies = [fold["accuracy"] for fold in result["by_fold"]]
        assert result["mean"] == pytest.approx(np.mean(accuracies))
        assert result["sd"] == pytest.approx(np.std(accuracies, ddof=1))
        assert result["pooled"]["num_clips"] == 150
        assert np.sum(result["pooled"]["confusion"]["counts"]) == pytest.approx(150)
        assert f"{name}: accuracy {100 * result['mean']:.2f} +- {100 * result['sd']:.2f} %" in done.stdout
        for fold, model in summary["models"][name].items():
            clips = 150 - summary["counts"][f"fold{fold}"]["clips"]
            assert model["training"]["best_step"] > 0
            assert model["training"]["steps"] < 6 * clips / 8, "held-out clips are not trained on"
    assert [(d["student"], d["baseline"]) for d in summary["differences"]] == [("cscm", "baseline")]


def test_the_scores_are_those_of_the_written_classifiers(finished: Any):
    output, _ = finished
    for name in ("baseline", "cscm"):
        ids, scores_AK = read_embeddings(str(only_folder(output / "evaluate" / name / "fold2" / "held_out")))
        classifier = load_classifier(str(only_folder(output / "classifier" / name / "fold2") / "model"))
        assert scores_AK.shape == (len(ids), classifier.num_labels)
        np.testing.assert_allclose(scores_AK.sum(axis=1), 1, atol=1e-5)
        assert classifier.fingerprint() == summary_of(output)["models"][name]["2"]["fingerprint"]


def test_the_report_is_one_file_that_asks_for_nothing(finished: Any):
    output, done = finished
    page = (output / "report" / "index.html").read_text()
    assert f"report: {output}/report/index.html" in done.stdout
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert [text for text in references if not text.startswith(("data:", "#"))] == []
    assert "data:audio/" in page


def test_the_same_command_again_skips_everything_and_starts_no_ray(classification_job: Any, finished: Any):
    output, _ = finished
    sessions = classification_job.ray_sessions()
    done = classification_job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "0 stages run, " in done.stdout
    assert classification_job.ray_sessions() == sessions > 0


def test_another_prompt_trains_that_classifier_alone(classification_job: Any, finished: Any):
    output, _ = finished
    setting = "variants.cscm={classifier.model.prompts.templates: ['{label}']}"
    changed = classification_job.run(output, "--dry-run", "--set", setting)
    assert changed.returncode == 0, changed.stderr[-5000:]
    stages = {name: what for what, name in re.findall(r"^#   (skip|run) +(\S+)", changed.stdout, re.M)}
    assert {name for name, what in stages.items() if what == "run"} == {
        "classifier/cscm/fold1", "classifier/cscm/fold2", "evaluate/scores", "report",
        *(f"evaluate/cscm/fold{fold}/{part}" for fold in (1, 2) for part in ("clips", "held_out")),
    }  # fmt: skip


def test_a_run_killed_among_folds_side_by_side_ends_as_an_uninterrupted_one(
    classification_job: Any, finished: Any, tmp_path: Path
):
    output, _ = finished
    killed = shutil.copytree(output, tmp_path / "killed")
    # What was evaluated stays, and is not looked at: classifiers with the same weights give the same scores.
    for gone in ("classifier/cscm", "evaluate/scores", "report", "summary.json"):
        (shutil.rmtree if (killed / gone).is_dir() else os.remove)(killed / gone)
    together = ("--set", "cluster.trainings_at_once=2")
    held = "classifier/cscm/fold*/*/checkpoints/step_00000015/.complete.json.*"
    files = classification_job.start_and_kill(killed, held, *together, count=2)
    assert {file.relative_to(killed).parts[2] for file in files} == {"fold1", "fold2"}
    done = classification_job.run(killed, *together)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "goes on after step 10 of " in done.stderr
    for fold in ("fold1", "fold2"):
        assert steps_of(killed / "classifier" / "cscm" / fold) == steps_of(output / "classifier" / "cscm" / fold)
    whole, again = summary_of(output), summary_of(killed)
    for name, by_fold in whole["models"].items():
        for fold, model in by_fold.items():
            assert again["models"][name][fold]["fingerprint"] == model["fingerprint"], (name, fold)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("classifier.model.encoder=cnn15", "classifier.model.encoder: "),
        ("folds.drawn=1", "folds: "),
        ("folds.official=[1,2]", "folds: "),
        ("variants.cscm={classifier.model.prompts.templates: ['a sound']}", "{label}"),
        ("evaluation.baseline=nobody", "evaluation.baseline: no classifier 'nobody'; there are baseline, cscm"),
        ("labels=[Dog bark, dog_bark]", "have the same prompt"),
        ("labels=[Bark, Siren]", "is none of the 2 that `labels` names"),
    ],
)
def test_a_mistake_is_one_line_before_ray_starts(
    classification_job: Any, refused_here: Refused, tmp_path: Path, setting: str, message: str
):
    status, said = refused_here(classification_job, tmp_path / "run", "--set", setting)
    assert status in (1, 2)
    assert said[-1].startswith("train_semanticac: ")
    assert message in said[-1]


def test_a_corpus_without_folds_is_one_line_before_ray_starts(classification_job: Any, tmp_path: Path):
    sessions = classification_job.ray_sessions()
    done = classification_job.run(tmp_path / "run", "--set", "folds={official: [1, 2], drawn: 0}")
    assert done.returncode == 2, done.stderr
    assert "no clip is in fold 1: its clips have none (column fold)" in done.stderr.strip().splitlines()[-1]
    assert classification_job.ray_sessions() == sessions
