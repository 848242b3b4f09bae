from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from raysem import cli, storage
from raysem.stages import Stage, run_stages, write_plan


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the console script; gives (status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raysem", *arguments])
        with pytest.raises(SystemExit) as ended:
            sys.exit(cli.main())  # type: ignore[func-returns-value]
        code = ended.value.code
        captured = capsys.readouterr()
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


def users_mistake(answer: tuple[int, str, str]) -> str:
    status, _, error = answer
    assert status == 2
    assert error.startswith("raysem: ")
    assert len(error.strip().splitlines()) == 1
    return error


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    (folder / "dog").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(size=800).astype(np.float32) * 0.1
    for index in range(3):
        soundfile.write(folder / "dog" / f"{index}.wav", noise, 8000)
    return folder


def test_the_corpora_are_listed_for_people_and_programs(call):
    status, out, _ = call("corpus", "list")
    assert status == 0
    assert "esc50" in out
    status, out, _ = call("corpus", "list", "--json")
    assert {"folder", "esc50"} <= {corpus["name"] for corpus in json.loads(out)}


def test_a_corpus_is_built_and_packed(call, sounds: Path, tmp_path: Path):
    status, out, error = call("corpus", "build", "folder", "--root", str(sounds), "--output", str(tmp_path / "built"))
    assert status == 0, error
    assert json.loads(out)["clips"] == 3
    status, out, error = call(
        "corpus", "pack", "--clips", str(tmp_path / "built"), "--output", str(tmp_path / "packed")
    )
    assert status == 0, error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing", "--root", "x"], "no corpus 'nothing'; there are"),
        (["folder", "--root", "nowhere"], "nowhere"),
        (["folder", "--root", ".", "-o", "labels_from"], "--option labels_from: expected dotted.key=value"),
        (["folder", "--root", ".", "-o", "lable=1"], "corpus folder: lable: no such key"),
    ],
)
def test_mistakes_in_building_a_corpus_are_one_line(call, arguments: list[str], reason: str, tmp_path: Path):
    assert reason in users_mistake(call("corpus", "build", *arguments, "--output", str(tmp_path / "out")))


def test_the_resolved_recipe_is_shown_with_its_digest(call):
    status, out, error = call("show-config", "--set", "seed=7")
    assert status == 0, error
    assert "seed: 7" in out.splitlines()
    assert out.splitlines()[-1].startswith("# digest ")
    assert "no such key" in users_mistake(call("show-config", "--set", "sed=7"))
    assert "no such file" in users_mistake(call("show-config", "nowhere.yaml"))


def test_the_status_of_a_run_is_shown(call, tmp_path: Path):
    output = str(tmp_path / "run")
    stages = [Stage("read", lambda folder: {})]
    write_plan(stages, output, {})
    run_stages(stages, output)
    status, out, _ = call("status", output)
    assert status == 0
    assert "finished  read" in out
    status, out, _ = call("status", output, "--json")
    assert json.loads(out)["stages"][0]["state"] == "finished"
    assert "not the output of a run" in users_mistake(call("status", str(tmp_path)))


def test_runs_are_compared(call, tmp_path: Path):
    runs = []
    for seed, accuracy in enumerate((0.5, 0.7)):
        summary = {"seed": seed, "evaluation": {"teacher": {"zero_shot": {"esc": {"accuracy": accuracy}}}}}
        runs.append(str(tmp_path / f"run{seed}"))
        storage.write_json(storage.join(runs[-1], "summary.json"), summary)
    status, out, error = call("compare", *runs)
    assert status == 0, error
    assert "60.0 ± 14.1" in out
    assert "the run has not finished" in users_mistake(call("compare", str(tmp_path / "nothing")))


def test_wrong_options_are_told_by_the_option_parser(call):
    assert call("nothing")[0] == 2
    assert call("status")[0] == 2
