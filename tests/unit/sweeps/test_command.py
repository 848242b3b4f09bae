from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from raysem import storage
from raysem.errors import StageError
from raysem.locks import LOCK
from raysem.sweeps import command
from raysem.sweeps.command import main

SMOKE = Path(__file__).parents[2] / "e2e" / "smoke.yaml"
THRESHOLD = "curation.similarity_threshold"
SPACE = f"""
recipe: {SMOKE}
keys:
  {THRESHOLD}: {{grid: [0.3, 0.4]}}
  seed: {{grid: [0, 1]}}
metric: recall_at_1
"""


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch):
    """Ray is never started, nor is one used that other tests have."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def sweep(folder: Path, space: str, *more: str) -> int:
    """The status of the command on a space, with `folder`/out as its output."""
    (folder / "space.yaml").write_text(space)
    return main(["--space", str(folder / "space.yaml"), "--output", str(folder / "out"), *more])


def said_in(capsys: Any) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sweep: ")]
    return line


@pytest.mark.parametrize(
    ("space", "more", "said"),
    [
        (SPACE.replace(THRESHOLD, "curation.sed"), (), "curation.sed: no such key (did you mean seed?)"),
        (SPACE.replace("0.4", "1.4"), (), f"{THRESHOLD}: expected less than or equal to 1, got 1.4"),
        (SPACE.replace("0.3", "0.1"), (), "curation.match_floor: 0.2 is above the threshold 0.1"),
        (SPACE.replace("recall_at_1", "esc50"), (), "metric: 'esc50' is not measured on held-out data"),
        (SPACE, ("--set", "seed=3"), "--set seed: the space sweeps it"),
        (SPACE, ("--set", "curation.sed=3"), "curation.sed: no such key"),
        (SPACE, ("--set", "corpora.held_out=[]"), "corpora.held_out: is empty"),
        (SPACE, ("--recipe", "nowhere.yaml"), "nowhere.yaml: no such file"),
        (SPACE.replace("smoke.yaml", "smok.yaml"), (), "smok.yaml: no such file"),
        (SPACE + "keys: {}", (), "keys: written twice"),
        ("- 1", (), "is a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_status_two_and_leaves_nothing(
    space: str, more: tuple[str, ...], said: str, tmp_path: Path, capsys: Any
):
    assert sweep(tmp_path, space, *more) == 2
    assert said in said_in(capsys)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_trials_with_what_is_their_own(tmp_path: Path, capsys: Any):
    assert sweep(tmp_path, SPACE, "--dry-run") == 0
    text = capsys.readouterr().out
    assert "# 4 trials" in text
    shared = re.findall(r"^#   (\S+) [0-9a-f]+$", text, re.M)
    # A seed of the recipe is a seed of its teacher, too: only what is drawn before is shared.
    assert shared == ["corpora/synthetic"]
    trials = re.findall(r"^([0-9a-f]{8})  similarity_threshold=(0\.\d), seed=(\d)  \[(.*)\]$", text, re.M)
    assert [(threshold, seed) for _, threshold, seed, _ in trials] == [
        ("0.3", "0"), ("0.3", "1"), ("0.4", "0"), ("0.4", "1"),
    ]  # fmt: skip
    assert all(own.endswith(f"select/DU_{threshold}, student/student") for _, threshold, _, own in trials)
    assert not (tmp_path / "out").exists()


def test_another_sweep_in_the_output_is_refused_with_the_difference(tmp_path: Path, capsys: Any):
    location = str(tmp_path / "out" / "sweep.json")
    storage.write_json(location, {"space": {"metric": "held_out_loss"}, "recipe": {"seed": 4}})
    assert sweep(tmp_path, SPACE) == 2
    said = said_in(capsys)
    assert "holds another sweep" in said
    assert "space.metric: 'held_out_loss' -> 'recall_at_1'" in said
    assert "recipe.seed: 4 -> 0" in said
    assert "--fresh" in said
    assert storage.read_json(location)["recipe"] == {"seed": 4}


def test_a_sweep_of_before_a_key_was_added_is_the_same_with_its_default(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    def end(self: Any) -> None:
        raise StageError("so far")

    monkeypatch.setattr(command._Sweep, "run_trials", end)
    assert sweep(tmp_path, SPACE) == 1
    location = str(tmp_path / "out" / "sweep.json")
    now = storage.read_json(location)
    before = json.loads(json.dumps(now))
    assert before["recipe"]["student"]["training"].pop("accumulation") == 1
    assert before["space"].pop("scheduler")
    storage.write_json(location, before)
    assert sweep(tmp_path, SPACE) == 1
    assert storage.read_json(location) == now
    before["recipe"]["student"]["training"]["accumulation"] = 2
    storage.write_json(location, before)
    assert sweep(tmp_path, SPACE) == 2
    assert "holds another sweep (recipe.student.training.accumulation: 2 -> 1)" in capsys.readouterr().err


def test_a_second_sweep_on_one_output_is_refused(tmp_path: Path, capsys: Any):
    began = psutil.Process(1).create_time()
    held = {"host": "elsewhere", "pid": 1, "began": began, "beat": time.time(), "token": "theirs"}
    storage.write_json(str(tmp_path / "out" / LOCK), held)
    assert sweep(tmp_path, SPACE) == 2
    assert "process 1 on elsewhere is at work on this output" in said_in(capsys)
