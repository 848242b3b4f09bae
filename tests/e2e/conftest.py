"""The real job scripts in processes of their own, on the recipes of this folder."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
HELD_PROCESS = Path(__file__).parents[1] / "support" / "held_process"
TIMEOUT_SECONDS = 540
JOBS = {"train_spa": "raysem.runs.tagging", "train_semanticac": "raysem.runs.classification"}


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder below the root of all test processes, filled by the first of them that asks; the others only read it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a folder of its own there
        root = root.parent
    folder, whole = root / name, root / f"{name}.whole"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of width 32 that knows every word of the synthetic captions."""
    return made_once(tmp_path_factory, "text_encoder", save_text_encoder)


def save_text_encoder(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from raysem.corpora.synthetic import SyntheticSettings, plan_clips
    from raysem.corpora.synthetic_plans import plan_captions
    from raysem.corpora.synthetic_sounds import SOUNDS

    settings = SyntheticSettings(teacher_clips=400)
    texts = [plan.text for plan in plan_captions(plan_clips(settings)["teacher"], settings)]
    words = sorted({word for text in [*texts, *SOUNDS] for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)


def _hears_ctrl_c() -> None:
    """Tests started in the background of a shell ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class JobScript:
    """A job with its smoke recipe. Its Ray lives in `ray_folder`, with tokens on, as a user's."""

    text_encoder: Path
    ray_folder: Path
    name: str = "curate_and_train"
    recipe: str = "smoke.yaml"
    encoder_key: str = "teacher.model.text.name"
    more_environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Ours without what the tests' own Ray needs; no token or session of the user's is seen or left behind."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {
            "RAY_TMPDIR": str(self.ray_folder),
            "RAY_AUTH_TOKEN_PATH": str(self.ray_folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            # Much of a run is processes that import torch: those that are idle are kept for the next stage.
            "RAY_idle_worker_killing_time_threshold_ms": "600000",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
            "RAY_worker_niceness": "0",  # else the other test process wins, whatever it does
            **self.more_environment,
        }

    def arguments(self, output: Path | str, *more: str) -> list[str]:
        """What stands behind `python`."""
        encoder = f"{self.encoder_key}={self.text_encoder}"
        script = [f"jobs/{self.name}.py", "--recipe", str(HERE / self.recipe), "--set", encoder]
        return [*script, "--output", str(output), *more]

    def start(self, output: Path, *more: str) -> subprocess.Popen[str]:
        """Start it as the head of a process group; what it prints goes to `<output>.log`, appended."""
        with output.with_name(f"{output.name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, *self.arguments(output, *more)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=_hears_ctrl_c,
            )

    def run(self, output: Path | str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process = subprocess.Popen(
            [sys.executable, *self.arguments(output, *more)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill(process)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start_and_kill(self, output: Path, held: str, *more: str, count: int = 1) -> list[Path]:
        """Start it, and kill it and its Ray once `count` processes are in the middle of a file; returns those files.

        Args:
            held: a pattern of the files, below `output`.
        """
        notes = output.with_name(f"held-{len(list(output.parent.glob('held-*')))}")
        notes.mkdir()
        hold = {
            "PYTHONPATH": os.pathsep.join([str(HELD_PROCESS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAYSEM_TEST_HOLD": f"{output}/{held}",
            "RAYSEM_TEST_HELD": str(notes),
        }
        process = replace(self, more_environment=hold).start(output, *more)
        try:
            wait_until(lambda: len(list(notes.glob("*.json"))) >= count, process)
        finally:
            self.kill(process)
        assert self.ray_processes() == []
        files = [Path(json.loads(note.read_text())["path"]) for note in notes.glob("*.json")]
        assert {file.read_bytes() for file in files} == {b"half a file"}
        return files

    @staticmethod
    def kill(process: subprocess.Popen[str]) -> None:
        """SIGKILL to the process group and all that it started, workers of its Ray too; returns when all is gone."""
        try:
            family = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        os.killpg(process.pid, signal.SIGKILL)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        psutil.wait_procs(family, timeout=60)

    def ray_sessions(self) -> int:
        """How often a Ray was started so far."""
        return len(list((self.ray_folder / "ray").glob("session_2*")))

    def ray_processes(self) -> list[psutil.Process]:
        """Live processes of this script's Ray sessions, whoever their parent is."""
        return [process for process in psutil.process_iter() if str(self.ray_folder) in _command_of(process)]


def _command_of(process: psutil.Process) -> str:
    try:
        dead = process.status() == psutil.STATUS_ZOMBIE
        # Workers overwrite their command line; where their session is stands in their environment.
        return "" if dead else " ".join([*process.cmdline(), *process.environ().values()])
    except psutil.Error:
        return ""


@pytest.fixture(scope="session")
def job(text_encoder: Path) -> Iterator[JobScript]:
    """The job script; at the end no process of its Ray is left."""
    folder = Path(tempfile.mkdtemp(prefix="rj-", dir="/tmp"))  # short: a socket's path may have 107 characters
    (folder / "token").write_text("0123456789abcdef" * 4)
    script = JobScript(text_encoder, folder)
    yield script
    left = script.ray_processes()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def finished(job: JobScript, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output of one uninterrupted run, to be read only, and what it printed."""

    def run(folder: Path) -> None:
        sessions = job.ray_sessions()
        done = job.run(folder / "run")
        assert done.returncode == 0, done.stderr[-5000:]
        assert job.ray_sessions() == sessions + 1
        (folder / "printed.json").write_text(json.dumps([done.args, done.stdout, done.stderr]))

    folder = made_once(tmp_path_factory, "finished", run)
    arguments, out, err = json.loads((folder / "printed.json").read_text())
    return folder / "run", subprocess.CompletedProcess(arguments, 0, out, err)


@pytest.fixture(scope="session")
def tagging_job(job: JobScript) -> JobScript:
    """`jobs/train_spa.py`, with the same Ray folder."""
    return replace(job, name="train_spa", recipe="tagging_smoke.yaml", encoder_key="classes.encoder.name")


@pytest.fixture(scope="session")
def classification_job(job: JobScript) -> JobScript:
    """`jobs/train_semanticac.py`, with the same Ray folder."""
    key = "classifier.model.text.name"
    return replace(job, name="train_semanticac", recipe="classification_smoke.yaml", encoder_key=key)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None) -> None:
    """Wait for a condition, while the process, if one is given, lives."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if process is not None:
            assert process.poll() is None, f"ended with status {process.returncode} too early"
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.005)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[[Callable[[], bool], subprocess.Popen[str] | None], None]:
    return wait_until


@pytest.fixture
def refused_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Runs a job in this process, which may start no Ray; its status, and the lines that it wrote to stderr.

    A process of its own takes seconds to import what it needs, which is most of the time of a refusal.
    """

    def start(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    def run(script: JobScript, output: Path, *more: str) -> tuple[int, list[str]]:
        from raysem.runs.launch import main

        monkeypatch.setattr("ray.init", start)
        monkeypatch.setattr("ray.is_initialized", lambda: False)  # nor is one used that other tests have
        job = importlib.import_module(JOBS[script.name]).JOB
        capsys.readouterr()
        status = main(job, script.arguments(output, *more)[1:])
        return status, capsys.readouterr().err.strip().splitlines()

    return run
