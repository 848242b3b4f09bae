"""Two drivers that ask for one output at the same moment, again and again: one holds it, the other is refused."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raysem import storage
from raysem.locks import LOCK, run_lock

pytestmark = pytest.mark.fault

ROUNDS = 20

# Both wait for one moment of the clock, which a line tells them, and hold the lock until the next line.
RACER = """
import os, sys, time
from raysem.errors import UserError
from raysem.locks import run_lock
print("ready", flush=True)
for line in sys.stdin:
    output, moment = line.split()
    while time.time() < float(moment):
        pass
    try:
        with run_lock(output):
            print(f"held {os.getpid()}", flush=True)
            sys.stdin.readline()
    except UserError as error:
        print(error, flush=True)
        sys.stdin.readline()
    print("free", flush=True)
"""


def say(racer: subprocess.Popen[str], line: str) -> None:
    assert racer.stdin is not None
    racer.stdin.write(f"{line}\n")
    racer.stdin.flush()


def hear(racer: subprocess.Popen[str]) -> str:
    assert racer.stdout is not None
    return racer.stdout.readline().strip()


@pytest.fixture(scope="module")
def racers() -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as stack:
        command = [sys.executable, "-c", RACER]
        racers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        assert [hear(racer) for racer in racers] == ["ready", "ready"]
        yield racers
        for racer in racers:
            racer.kill()


def race(racers: list[subprocess.Popen[str]], output: Path) -> list[str]:
    import time

    moment = time.time() + 0.05
    for racer in racers:
        say(racer, f"{output} {moment}")
    answers = [hear(racer) for racer in racers]
    for racer in racers:
        say(racer, "go on")
    assert [hear(racer) for racer in racers] == ["free", "free"]
    return answers


def check(answers: list[str], racers: list[subprocess.Popen[str]]) -> None:
    held = [answer for answer in answers if answer.startswith("held ")]
    refused = [answer for answer in answers if not answer.startswith("held ")]
    assert (len(held), len(refused)) == (1, 1), answers
    assert f"process {held[0].split()[1]} on {socket.gethostname()} is at work on this output" in refused[0]


def test_of_two_drivers_one_is_refused_with_the_name_of_the_other(racers: list, tmp_path: Path):
    for number in range(ROUNDS):
        check(race(racers, tmp_path / str(number)), racers)
        assert storage.list_files(str(tmp_path / str(number))) == []


def test_of_two_drivers_that_find_the_lock_of_a_killed_one_one_is_refused(racers: list, tmp_path: Path):
    left = {"host": socket.gethostname(), "pid": 2**22 + 1, "began": 1.0, "beat": 1.0, "token": "left behind"}
    for number in range(ROUNDS):
        output = tmp_path / str(number)
        output.mkdir()
        (output / LOCK).write_text(json.dumps(left))
        check(race(racers, output), racers)
        assert storage.list_files(str(output)) == []


def test_the_loser_may_try_again_when_the_winner_is_done(racers: list, tmp_path: Path):
    race(racers, tmp_path)
    with run_lock(str(tmp_path)):
        assert (tmp_path / LOCK).exists()
