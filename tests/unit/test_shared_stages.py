"""Stages of an output that several processes share: each is run by one of them, and the others wait for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import next_line, until

from raysem.locks import LOCK
from raysem.stages import Stage, run_stages

SHARER = """
import sys, time
from pathlib import Path
from raysem.stages import Stage, run_stages

def work(folder):
    with Path(sys.argv[1], "begun.txt").open("a") as file:
        file.write("begun\\n")
    time.sleep(float(sys.argv[2]))
    return {"by": sys.argv[3]}

result = run_stages([Stage("work", work)], sys.argv[1], shared=True)["work"]
print(result.skipped, result.summary["by"], flush=True)
"""


def start_sharer(output: Path, name: str, seconds: float = 1.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SHARER, str(output), str(seconds), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_share_an_output_run_a_stage_once_and_the_others_wait_for_it(tmp_path: Path):
    sharers = [start_sharer(tmp_path, str(number)) for number in range(3)]
    said = [next_line(sharer).split() for sharer in sharers]
    for sharer in sharers:
        sharer.communicate()
    assert (tmp_path / "begun.txt").read_text() == "begun\n"
    assert sorted(skipped for skipped, _ in said) == ["False", "True", "True"]
    assert len({by for _, by in said}) == 1
    assert not list(tmp_path.glob(f"work/*/{LOCK}"))


def test_a_stage_whose_process_was_killed_is_run_by_the_one_that_waited(tmp_path: Path):
    first = start_sharer(tmp_path, "first", seconds=600.0)
    until(lambda: (tmp_path / "begun.txt").exists())
    second = start_sharer(tmp_path, "second", seconds=0.0)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=3)  # it waits, as long as the first one lives
    first.kill()
    first.communicate()
    assert next_line(second) == "False second"
    second.communicate()
    assert (tmp_path / "begun.txt").read_text() == "begun\nbegun\n"


def test_a_shared_stage_that_fails_gives_its_lock_back(tmp_path: Path):
    stage = Stage("work", lambda folder: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        run_stages([stage], str(tmp_path), shared=True)
    assert not list(tmp_path.glob(f"work/*/{LOCK}"))


def test_an_output_that_nobody_shares_has_no_locks_of_stages(tmp_path: Path):
    seen: list[bool] = []
    stage = Stage("work", lambda folder: {"locked": seen.append((Path(folder) / LOCK).exists())})
    run_stages([stage], str(tmp_path))
    run_stages([stage], str(tmp_path), fresh=True, shared=True)
    assert seen == [False, True]
