"""What a user sees of a job: one line and a status, and no Ray before the recipe is known to work."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raysem import config, storage
from raysem.config import Settings
from raysem.errors import ClipError, ConfigError, DataError, StageError
from raysem.locks import LOCK
from raysem.runs import launch
from raysem.runs.curate_and_train import JOB
from raysem.runs.launch import Job, main, own_error
from raysem.stages import Stage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`curate_and_train` with these arguments, in an empty folder, with a Ray that must not be started."""

    def refuse(_: Any) -> None:
        raise AssertionError("Ray was started")

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(replace(JOB, connect=refuse), arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    return call


def users_mistake(answer: tuple[int, str, str]) -> str:
    status, out, error = answer
    assert status == 2, error
    assert out == ""
    assert error.startswith("curate_and_train: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    assert not (Path.cwd() / "runs").exists(), "an output was written"
    return error


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("teacher.training.stps=3", "teacher.training.stps: no such key (did you mean steps?)"),
        ("sed=3", "sed: no such key (did you mean seed?)"),
        ("seed=many", "seed: expected a valid integer, got 'many'"),
        ("seed=-1", "seed: expected greater than or equal to 0, got -1"),
        ("seed=true", "seed: expected no true or false, got True"),
        ("teacher.training.steps=2.5", "teacher.training.steps: expected a valid integer, got 2.5"),
        ("teacher.training.learning_rate=fast", "teacher.training.learning_rate: expected a valid number"),
        ("teacher.training.learning_rate=.nan", "teacher.training.learning_rate: expected a finite number, got nan"),
        ("teacher.training.learning_rate=0", "teacher.training.learning_rate: expected greater than 0, got 0"),
        ("curation.similarity_threshold=1.5", "curation.similarity_threshold: expected less than or equal to 1"),
        ("curation.strategy=UD", "curation.strategy: expected 'DU', 'DS' or 'ADS', got 'UD'"),
        ("seed.x=1", "seed.x: seed is a value, it has no keys"),
        ("seed", "--set seed: expected dotted.key=value"),
        ("=1", "--set =1: expected dotted.key=value"),
        ("variants={a: {student.training.stps: 1}}", "variants.a: student.training.stps: no such key"),
        ("variants={a: {seed: 1}}", "variants: a: seed is shared by all variants"),
        ("variants={a: {}, a: {}}", "a: written twice"),
        ("variants={a: 3}", "variants.a: expected a mapping, got 3"),
        ("corpora.wild=[]", "corpora.wild: "),
        ("corpora.wild.0.part=wilds", "corpora.wild.0: part: expected one of"),
        ("corpora.wild.0.corpus=esc5", "corpora.wild.0: no corpus 'esc5'; there are"),
        ("corpora.wild=[{corpus: esc5, root: x}]", "corpora.wild.0: no corpus 'esc5'; there are"),
        ("corpora.wild=[{corpus: clips_table, root: nowhere}]", "corpora.wild: root nowhere: no such file or folder"),
        ("corpora.synthetic=null", "corpora.synthetic: is missing"),
        ("corpora.held_out=[]", "corpora.held_out: is empty"),
        ("curation.domain=[esc50]", "curation.domain: no evaluation set 'esc50'; there are synthetic"),
        ("curation.match_floor=0.9", "curation.match_floor: 0.9 is above the threshold"),
        ("teacher={kind: raysem, location: nowhere}", "teacher.location: nowhere: no such file or folder"),
        ("cluster.training_workers=5", "no multiple of cluster.training_workers x accumulation = 5"),
        ("cluster={local_cpus: 1, training_workers: 2}", "cluster.training_workers: 2 x 1 CPUs are asked for"),
        ("cluster={training_on_gpus: true, training_workers: 32}", "32 GPUs are asked for, this machine has"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(override: str, reason: str, run: Run):
    assert reason in users_mistake(run("--set", override))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("seed: [1", "recipe.yaml: line 1: not valid YAML"),
        ("seed: 1\nseed: 2\n", "recipe.yaml: seed: written twice (line 2)"),
        ("- 1\n", "a recipe is a mapping of sections, this is a list"),
        ("", "corpora: is missing and has no default"),
        ("corpora: {wild: [{corpus: synthetic, part: wild}]}\nsed: 1\n", "sed: no such key"),
    ],
)
def test_a_wrong_recipe_is_one_line_and_status_2(content: str, reason: str, run: Run, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(content)
    assert reason in users_mistake(run("--recipe", "recipe.yaml"))


def test_a_recipe_that_is_not_there_is_named_with_those_that_are(run: Run, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("")
    error = users_mistake(run("--recipe", "recipe.yaml"))
    assert "--recipe recipe.yaml: no such file; in that folder there are ['mine.yaml']" in error


def test_an_installation_without_recipes_asks_for_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "RECIPES", tmp_path / "site-packages" / "jobs" / "recipes")
    error = users_mistake(run("--dry-run"))
    assert f"no default recipe at {tmp_path}/site-packages/jobs/recipes/quickstart.yaml; pass --recipe FILE" in error


def test_a_stage_that_is_not_there_is_named_with_those_that_are(run: Run):
    error = users_mistake(run("--until", "selekt"))
    assert "--until selekt: no such stage; there are corpora/synthetic, " in error


def test_an_output_that_is_a_file_is_refused(run: Run, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    assert "is a file, expected a folder" in users_mistake(run("--output", "file"))
    assert f"{tmp_path / 'file'} is a file, expected a folder" in users_mistake(run("--output", "file/below"))


def test_an_option_that_is_not_there_is_told_by_the_parser(run: Run):
    with pytest.raises(SystemExit) as ended:
        run("--dryrun")
    assert ended.value.code == 2


def test_a_dry_run_prints_recipe_and_stages_and_writes_nothing(run: Run, tmp_path: Path):
    status, out, error = run("--dry-run", "--set", "teacher.training.learning_rate=8e-5", "--until", "match")
    assert status == 0, error
    assert "    learning_rate: 8.0e-05" in out
    stages = [line for line in out.splitlines() if line.startswith("#   run ")]
    assert stages[0].startswith("#   run  corpora/synthetic ")
    assert stages[-1].startswith("#   run  match ")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_recipe_is_refused_without_a_ray_process(tmp_path: Path):
    script = Path(launch.__file__).parents[2] / "jobs" / "curate_and_train.py"
    code = (
        "import runpy, sys, ray\n"
        "def refuse(*a, **k): raise AssertionError('Ray was started')\n"
        "ray.init = refuse\n"
        f"sys.argv = [{str(script)!r}, '--set', 'sed=1']\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("curate_and_train: ")
    assert "Traceback" not in done.stderr


class TinyRecipe(Settings):
    seed: int = 0


def tiny_job(work: Callable[[str], dict[str, Any]], connected: list[int] | None = None) -> Job[TinyRecipe]:
    def stages(recipe: TinyRecipe, output: str) -> list[Stage]:
        first = Stage("first", lambda folder: {}, settings=config.plain(recipe), needs_cluster=False)
        return [first, Stage("second", work, inputs=[first])]

    return Job(
        name="tiny",
        about="A job of two stages.",
        recipe_type=TinyRecipe,
        default_recipe="tiny.yaml",
        default_output="runs/tiny",
        stages=stages,
        preflight=lambda recipe, output, chosen: ["the disk is nearly full"],
        check_resources=lambda recipe, output, chosen: ["memory is tight"],
        connect=lambda recipe: (connected if connected is not None else []).append(1),
        finish=lambda results, output: storage.write_text(storage.join(output, "finished"), "yes"),
    )


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text("seed: 1\n")
    return ["--recipe", "tiny.yaml"]


def test_a_job_runs_writes_its_recipe_and_is_skipped_by_the_next_call(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    connected: list[int] = []
    job = tiny_job(lambda folder: {"headline": ["accuracy 61 %"]}, connected)
    assert main(job, tiny) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 stages run, 0 skipped (finished before), ")
    assert out.splitlines()[-1] == "accuracy 61 %"
    output = tmp_path / "runs" / "tiny"
    assert (output / "recipe.yaml").read_text() == "seed: 1\n"
    assert (output / "finished").exists()
    assert not (output / LOCK).exists()
    assert "the disk is nearly full" in caplog.text
    assert "memory is tight" in caplog.text
    assert main(job, tiny) == 0
    assert "skipped: first, second" in capsys.readouterr().out
    assert connected == [1]
    assert main(job, [*tiny, "--fresh", "--until", "first"]) == 0
    assert connected == [1], "the first stage needs no cluster"
    assert main(job, [*tiny, "--fresh"]) == 0
    assert connected == [1, 1]


def test_a_changed_recipe_is_told(tiny: list[str], caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "raysem")
    job = tiny_job(lambda folder: {})
    main(job, tiny)
    assert main(job, [*tiny, "--set", "seed=2"]) == 0
    assert "recipe changed since the last run here: seed: 1 -> 2" in caplog.text


def test_what_was_finished_is_printed_as_to_be_skipped(tiny: list[str], capsys: pytest.CaptureFixture[str]):
    job = tiny_job(lambda folder: {})
    main(job, [*tiny, "--until", "first"])
    capsys.readouterr()
    main(job, [*tiny, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[-2:]] == ["skip", "run"]


def caused_by(error: BaseException) -> Exception:
    """What pydantic makes of an interrupt within a serializer."""
    found = ValueError(f"Error calling function: {type(error).__name__}")
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("table x: row 3 is wrong"), 2, "tiny: table x: row 3 is wrong"),
        (StageError("4 shards stay unfinished"), 1, "tiny: stopped: 4 shards stay unfinished"),
        (KeyboardInterrupt(), 130, "tiny: interrupted; the same command goes on from what is finished"),
        (caused_by(KeyboardInterrupt()), 130, "tiny: interrupted; the same command goes on from what is finished"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "stopped by an unexpected error, ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_failure_is_one_line_with_its_status(
    error: BaseException, status: int, said: str, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def fail(folder: str) -> dict[str, Any]:
        raise error

    assert main(tiny_job(fail), tiny) == status
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "runs" / "tiny" / LOCK).exists()
    assert not (tmp_path / "runs" / "tiny" / "finished").exists()
    log = tmp_path / "runs" / "tiny" / launch.ERROR_LOG
    assert log.exists() == isinstance(error, ZeroDivisionError)
    if log.exists():
        assert "Traceback" in log.read_text()


def test_a_second_driver_on_one_output_is_status_2(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    answers = []
    job = tiny_job(lambda folder: answers.append(main(job, tiny)) or {})  # type: ignore[func-returns-value]
    assert main(job, tiny) == 0
    assert answers == [2]
    assert "is at work on this output" in capsys.readouterr().err


def test_our_error_is_found_within_those_of_others():
    class RayLikeError(Exception):
        def __init__(self, cause: BaseException):
            super().__init__("a long traceback\nas text")
            self.cause = cause

    class BothError(RayLikeError, DataError):
        """As Ray makes them: its error and ours at once."""

    ours = DataError("row 3")
    assert own_error(ours) is ours
    assert own_error(RayLikeError(RayLikeError(ours))) is ours
    assert own_error(BothError(ours)) is ours
    chained = RuntimeError("outer")
    chained.__cause__ = ours
    assert own_error(chained) is ours
    assert own_error(RuntimeError("none")) is None
    loop = RuntimeError("loop")
    loop.__cause__ = loop
    assert own_error(loop) is None


def test_what_ray_data_writes_into_our_message_is_taken_out():
    ours = StageError(
        "hole: too deep\nFailed to apply UDF transform after 1/1 attempts (...).\nTo change retry attempts"
    )
    found = own_error(ours)
    assert found is ours
    assert str(found) == "hole: too deep"


def test_errors_cross_processes_as_themselves():
    for error in (ConfigError("a: b"), ClipError("silent", "peak 0"), storage.StorageError("s3://x: no")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
