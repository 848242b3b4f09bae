"""One driver at work on an output: who is refused, who takes over, and the heartbeat. Races: test_run_lock_race.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import next_line, until

from raysem import locks, storage
from raysem.errors import StorageError, UserError
from raysem.locks import LOCK, read_lock, run_lock


def lock_of(**changes: Any) -> dict[str, Any]:
    began = psutil.Process().create_time()
    content = {"host": socket.gethostname(), "pid": os.getpid(), "began": began, "beat": time.time(), "token": "x"}
    return content | changes


def test_a_second_driver_is_refused_with_the_name_of_the_first(tmp_path: Path):
    output = str(tmp_path / "new" / "run")
    with run_lock(output):
        assert read_lock(output) == {"host": socket.gethostname(), "pid": os.getpid()}
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is at work on this output since \d{{4}}-"):
            run_lock(output).__enter__()
        assert read_lock(output) is not None
    assert read_lock(output) is None
    assert storage.list_files(output) == []
    with run_lock(output):
        pass


def test_a_lock_is_given_back_when_the_run_fails(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), run_lock(str(tmp_path)):
        raise ZeroDivisionError
    assert read_lock(str(tmp_path)) is None


@pytest.mark.parametrize(
    "left",
    [
        lock_of(pid=2**22 + 1),
        lock_of(began=1.0),  # the process id was given to another process since
        lock_of(host="elsewhere", beat=time.time() - 61),
    ],
)
def test_a_lock_that_nobody_holds_is_taken_over(left: dict[str, Any], tmp_path: Path):
    storage.write_json(str(tmp_path / LOCK), left)
    assert read_lock(str(tmp_path)) is None
    with run_lock(str(tmp_path)):
        assert read_lock(str(tmp_path)) == {"host": socket.gethostname(), "pid": os.getpid()}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"x"', '{"host": "a"}'])
def test_a_damaged_lock_is_no_lock(content: str, tmp_path: Path):
    (tmp_path / LOCK).write_text(content)
    assert read_lock(str(tmp_path)) is None
    with run_lock(str(tmp_path)):
        assert read_lock(str(tmp_path)) is not None


def test_a_driver_on_another_host_that_beats_is_alive(tmp_path: Path):
    storage.write_json(str(tmp_path / LOCK), lock_of(host="elsewhere", pid=7))
    assert read_lock(str(tmp_path)) == {"host": "elsewhere", "pid": 7}
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        run_lock(str(tmp_path)).__enter__()


def test_the_heartbeat_goes_on_and_stops_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    with run_lock(str(tmp_path)):
        first = json.loads((tmp_path / LOCK).read_text())["beat"]
        until(lambda: json.loads((tmp_path / LOCK).read_text())["beat"] > first)
    assert not (tmp_path / LOCK).exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "raysem-lock"]


def test_a_heartbeat_survives_a_store_that_fails_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    write, failures = storage.write_json, []

    def fail_twice(location: str, content: Any) -> None:
        if threading.current_thread().name == "raysem-lock" and len(failures) < 2:
            failures.append(location)
            raise StorageError(f"{location}: cannot be reached")
        write(location, content)

    monkeypatch.setattr(storage, "write_json", fail_twice)
    with run_lock(str(tmp_path)):
        first = json.loads((tmp_path / LOCK).read_text())["beat"]
        until(lambda: json.loads((tmp_path / LOCK).read_text())["beat"] > first)
    assert len(failures) == 2


def test_a_lock_that_another_driver_took_over_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    with run_lock(str(tmp_path)):
        taken = lock_of(host="elsewhere", pid=7, token="theirs")
        storage.write_json(str(tmp_path / LOCK), taken)
        until(lambda: "taken over by process 7 on elsewhere" in caplog.text)
    assert storage.read_json(str(tmp_path / LOCK)) == taken


DRIVER = """
import sys
from raysem.errors import UserError
from raysem.locks import run_lock
try:
    with run_lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
except UserError as error:
    print(error, flush=True)
"""


def start_driver(output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(output)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_drivers_that_start_at_once_one_holds_the_output(tmp_path: Path):
    drivers = [start_driver(tmp_path) for _ in range(3)]
    answers = [next_line(driver) for driver in drivers]
    for driver in drivers:
        driver.communicate("go\n")
    assert answers.count("held") == 1
    assert all("is at work on this output" in said or said == "held" for said in answers)
    assert storage.list_files(str(tmp_path)) == []


def test_a_killed_driver_leaves_a_lock_that_the_next_one_takes(tmp_path: Path):
    driver = start_driver(tmp_path)
    assert next_line(driver) == "held"
    with pytest.raises(UserError, match=f"process {driver.pid} on"):
        run_lock(str(tmp_path)).__enter__()
    driver.kill()
    driver.communicate()
    assert (tmp_path / LOCK).exists()
    with run_lock(str(tmp_path)):
        assert read_lock(str(tmp_path)) == {"host": socket.gethostname(), "pid": os.getpid()}
