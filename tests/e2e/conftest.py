"""The real job scripts in processes of their own, on the recipes of this folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TIMEOUT_SECONDS = 540


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of width 32 that knows every word of the synthetic captions."""
    import torch
    from transformers import BertConfig, BertModel

    from raysem.corpora.synthetic import SyntheticSettings, plan_clips
    from raysem.corpora.synthetic_plans import plan_captions
    from raysem.corpora.synthetic_sounds import SOUNDS

    settings = SyntheticSettings(teacher_clips=400)
    texts = [plan.text for plan in plan_captions(plan_clips(settings)["teacher"], settings)]
    words = sorted({word for text in [*texts, *SOUNDS] for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder = tmp_path_factory.mktemp("text_encoder")
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
    return folder


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
    """The output of one uninterrupted run, and what it printed."""
    output = tmp_path_factory.mktemp("finished") / "run"
    done = job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    return output, done


@pytest.fixture(scope="session")
def tagging_job(job: JobScript) -> JobScript:
    """`jobs/train_spa.py`, with the same Ray folder."""
    return replace(job, name="train_spa", recipe="tagging_smoke.yaml", encoder_key="classes.encoder.name")


@pytest.fixture(scope="session")
def classification_job(job: JobScript) -> JobScript:
    """`jobs/train_semanticac.py`, with the same Ray folder."""
    key = "classifier.model.text.name"
    return replace(job, name="train_semanticac", recipe="classification_smoke.yaml", encoder_key=key)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool], subprocess.Popen[str] | None], None]:
    """Wait for a condition, while the process, if one is given, lives."""

    def wait(condition: Callable[[], bool], process: subprocess.Popen[str] | None) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            if process is not None:
                assert process.poll() is None, f"ended with status {process.returncode} too early"
            assert time.monotonic() < deadline, "waited for too long"
            time.sleep(0.005)

    return wait
