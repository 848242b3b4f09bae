from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from raysem import stages, storage
from raysem.errors import StageError, UserError
from raysem.stages import (
    DONE,
    LOCK,
    PLAN,
    Stage,
    done_record,
    in_order,
    read_lock,
    run_lock,
    run_stages,
    stages_until,
    write_plan,
)


class Calls:
    """Stages that note their call, and a chain a <- b <- c of them."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def of(self, name: str, settings: Any = None, inputs: tuple[Stage, ...] = (), fail: bool = False) -> Stage:
        def run(folder: str) -> dict[str, Any]:
            self.made.append(name)
            storage.write_text(storage.join(folder, "out.txt"), name)
            if fail:
                raise StageError(f"{name} failed")
            return {"name": name}

        return Stage(name, run, settings, inputs)

    def chain(self, settings: Any = None, fail: str = "") -> list[Stage]:
        a = self.of("a")
        b = self.of("b", settings, (a,), fail == "b")
        return [a, b, self.of("c", None, (b,))]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def nothing(folder: str) -> dict[str, Any]:
    return {}


def test_a_digest_covers_name_settings_revision_and_inputs_but_not_the_function():
    base = Stage("a", nothing, {"x": 1})
    assert Stage("a", lambda folder: {}, {"x": 1}).digest == base.digest
    assert Stage("a", nothing, {"x": 2}).digest != base.digest
    assert Stage("b", nothing, {"x": 1}).digest != base.digest
    assert Stage("a", nothing, {"x": 1}, revision=2).digest != base.digest
    assert Stage("a", nothing, {"x": 1}, inputs=[base]).digest != base.digest


def test_a_change_reaches_the_stages_below_it_only(calls: Calls):
    before, after = calls.chain({"x": 1}), calls.chain({"x": 2})
    assert before[0].digest == after[0].digest
    assert before[1].digest != after[1].digest
    assert before[2].digest != after[2].digest


@pytest.mark.parametrize("root", ["local", "memory"])
def test_finished_stages_are_skipped_by_the_next_run(root: str, calls: Calls, tmp_path: Path):
    output = str(tmp_path) if root == "local" else f"memory://stages/{tmp_path.name}"
    first = run_stages(calls.chain(), output)
    assert calls.made == ["a", "b", "c"]
    assert [result.skipped for result in first.values()] == [False] * 3
    second = run_stages(calls.chain(), output)
    assert calls.made == ["a", "b", "c"]
    assert [result.skipped for result in second.values()] == [True] * 3
    assert [result.summary for result in second.values()] == [{"name": name} for name in "abc"]
    assert second["b"].seconds == first["b"].seconds


def test_a_changed_setting_runs_its_stage_and_those_below_and_keeps_the_old_folders(calls: Calls, tmp_path: Path):
    run_stages(calls.chain({"x": 1}), str(tmp_path))
    run_stages(calls.chain({"x": 2}), str(tmp_path))
    assert calls.made == ["a", "b", "c", "b", "c"]
    run_stages(calls.chain({"x": 1}), str(tmp_path))
    assert len(calls.made) == 5


def test_a_failed_stage_keeps_what_it_wrote_and_is_the_first_to_run_again(calls: Calls, tmp_path: Path):
    with pytest.raises(StageError, match="b failed"):
        run_stages(calls.chain(fail="b"), str(tmp_path))
    failed = calls.chain()[1]
    assert storage.exists(storage.join(failed.folder(str(tmp_path)), "out.txt"))
    assert done_record(failed, str(tmp_path)) is None
    run_stages(calls.chain(), str(tmp_path))
    assert calls.made == ["a", "b", "b", "c"]
    record = done_record(failed, str(tmp_path))
    assert record is not None
    assert record["attempts"] == 2
    assert record["inputs"] == {"a": calls.chain()[0].digest}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\xff"])
def test_a_damaged_record_of_a_stage_makes_it_run_again(content: str, calls: Calls, tmp_path: Path):
    run_stages(calls.chain(), str(tmp_path))
    location = storage.join(calls.chain()[1].folder(str(tmp_path)), DONE)
    storage.write_bytes(location, content.encode("latin-1"))
    run_stages(calls.chain(), str(tmp_path))
    assert calls.made == ["a", "b", "c", "b"]


def test_fresh_runs_again_what_was_asked_for_and_nothing_else(calls: Calls, tmp_path: Path):
    run_stages(calls.chain(), str(tmp_path))
    results = run_stages(calls.chain(), str(tmp_path), until="b", fresh=True)
    assert calls.made == ["a", "b", "c", "a", "b"]
    assert list(results) == ["a", "b"]
    assert done_record(calls.chain()[2], str(tmp_path)) is not None


def test_a_cluster_is_joined_once_and_only_for_a_stage_that_needs_it(tmp_path: Path):
    made: list[str] = []

    def of(name: str, *inputs: Stage, needs_cluster: bool) -> Stage:
        def run(folder: str) -> dict[str, Any]:
            made.append(name)
            return {}

        return Stage(name, run, inputs=inputs, needs_cluster=needs_cluster)

    table = of("table", needs_cluster=False)
    first, second = of("first", table, needs_cluster=True), of("second", table, needs_cluster=True)
    report = of("report", first, second, needs_cluster=False)
    listed, output = [table, first, second, report], str(tmp_path)
    run_stages(listed, output, until="table", connect=lambda: made.append("connect"))
    assert made == ["table"]
    run_stages(listed, output, connect=lambda: made.append("connect"))
    assert made == ["table", "connect", "first", "second", "report"]
    storage.delete(report.folder(output))
    run_stages(listed, output, connect=lambda: made.append("connect"))
    assert made[5:] == ["report"]


def test_where_a_stage_runs_is_no_part_of_its_digest():
    assert Stage("a", nothing, needs_cluster=False).digest == Stage("a", nothing).digest


def fold(name: str, run: Callable[[], Any] = lambda: None, *inputs: Stage) -> Stage:
    """A stage of the group "folds"."""

    def whole(folder: str) -> dict[str, Any]:
        run()
        return {"name": name}

    return Stage(name, whole, inputs=inputs, group="folds")


def two() -> int:
    return 2


WAIT = 20.0  # seconds until what never comes is given up


def test_the_group_of_a_stage_is_no_part_of_its_digest():
    assert Stage("a", nothing, group="folds").digest == Stage("a", nothing).digest


def test_stages_of_a_group_run_at_the_same_time_and_come_back_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    both = threading.Barrier(2, timeout=WAIT)
    last = threading.Event()

    def first() -> None:
        both.wait()
        assert last.wait(WAIT)

    listed = [Stage("a", nothing), fold("x", first), fold("y", lambda: (both.wait(), last.set())), Stage("z", nothing)]
    with caplog.at_level(logging.INFO):
        results = run_stages(listed, str(tmp_path), at_once=two)
    assert list(results) == ["a", "x", "y", "z"]
    assert [result.summary for result in results.values()] == [{}, {"name": "x"}, {"name": "y"}, {}]
    said = [" ".join(record.message.split()[:2]) for record in caplog.records]
    assert sorted(said) == sorted(f"[{i}/4] {name}{end}" for i, name in enumerate("axyz", 1) for end in ("", ":"))
    again = run_stages(listed, str(tmp_path), at_once=two)
    assert all(result.skipped for result in again.values())


def test_no_more_stages_run_at_once_than_may(tmp_path: Path):
    lock, third, running, most = threading.Lock(), threading.Event(), set[str](), [0]

    def run() -> None:
        name = threading.current_thread().name
        with lock:
            running.add(name)
            most.append(len(running))
        if len(running) > 2:
            third.set()
        third.wait(0.05)  # one too many would come meanwhile; without it nothing depends on this time
        with lock:
            running.discard(name)

    run_stages([fold(str(i), run) for i in range(8)], str(tmp_path), at_once=two)
    assert max(most) <= 2
    assert len(most) == 9


def test_a_place_that_is_free_is_taken_while_others_run(tmp_path: Path):
    c_runs = threading.Event()
    listed = [fold("a", lambda: c_runs.wait(WAIT)), fold("b"), fold("c", c_runs.set)]
    run_stages(listed, str(tmp_path), at_once=two)
    assert c_runs.is_set()


def test_a_stage_of_a_group_waits_for_what_it_reads_and_for_nothing_else(tmp_path: Path):
    made: list[str] = []
    b_runs, c_runs = threading.Event(), threading.Event()

    def a() -> None:
        assert c_runs.wait(WAIT)  # c reads nothing: it waits neither for a nor for b, which stands before it
        assert not b_runs.wait(0.05)  # it would come meanwhile; without it nothing depends on this time
        made.append("a")

    def b() -> None:
        b_runs.set()
        made.append("b")

    stage_a = fold("a", a)
    stage_b, stage_c = fold("b", b, stage_a), fold("c", c_runs.set)
    results = run_stages([stage_a, stage_b, stage_c], str(tmp_path), at_once=lambda: 3)
    assert made == ["a", "b"]
    assert list(results) == ["a", "b", "c"]


def test_groups_and_single_stages_follow_each_other(tmp_path: Path):
    """Two groups, one of them cut by a stage that is of none, are three pieces, each begun when the last has ended."""
    made: list[str] = []
    lock = threading.Lock()

    def of(name: str, group: str = "") -> Stage:
        def run(folder: str) -> dict[str, Any]:
            with lock:
                made.append(name[0])
            return {}

        return Stage(name, run, group=group)

    listed = [*(of(f"a{i}", "first") for i in range(3)), *(of(f"b{i}", "second") for i in range(3)), of("c")]
    listed += [of(f"d{i}", "first") for i in range(3)]
    run_stages(listed, str(tmp_path), at_once=lambda: 10)
    assert "".join(made) == "aaabbbcddd"


def test_room_is_asked_for_after_the_cluster_is_joined_and_only_for_a_group_with_work(tmp_path: Path):
    asked: list[str] = []

    def at_once() -> int:
        asked.append("at once?")
        return 2

    def run(*listed: Stage) -> list[str]:
        asked.clear()
        run_stages(listed, str(tmp_path), connect=lambda: asked.append("connect"), at_once=at_once)
        return list(asked)

    assert run(Stage("a", nothing), fold("x")) == ["connect"]
    assert run(fold("x"), fold("y")) == ["connect"]
    assert run(fold("x"), fold("y"), fold("z"), fold("w")) == ["connect", "at once?"]
    assert run(fold("x"), fold("y"), fold("z"), fold("w")) == []
    local = [Stage(name, nothing, needs_cluster=False, group="local") for name in ("p", "q")]
    assert run(*local) == ["at once?"]


@pytest.mark.parametrize("at_once", [None, lambda: 1])
def test_one_at_a_time_is_this_thread_and_the_order_of_the_list(at_once: Callable[[], int] | None, tmp_path: Path):
    made: list[tuple[str, threading.Thread]] = []
    listed = [fold(name, lambda name=name: made.append((name, threading.current_thread()))) for name in "cab"]
    assert list(run_stages(listed, str(tmp_path), at_once=at_once)) == ["c", "a", "b"]
    assert made == [(name, threading.current_thread()) for name in "cab"]


def test_the_only_stage_left_of_a_group_runs_in_this_thread(tmp_path: Path):
    made: list[threading.Thread] = []
    run_stages([fold("a")], str(tmp_path))
    run_stages([fold("a"), fold("b", lambda: made.append(threading.current_thread()))], str(tmp_path), at_once=two)
    assert made == [threading.current_thread()]


def test_room_for_less_than_one_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at_once: expected at least one stage at a time, got 0"):
        run_stages([fold("a"), fold("b")], str(tmp_path), at_once=lambda: 0)


def test_a_failure_lets_those_that_run_finish_and_starts_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    made: list[str] = []
    fails, b_runs = True, threading.Event()

    def a() -> None:
        if fails:
            assert b_runs.wait(WAIT)
            raise StageError("a failed")

    def b() -> None:
        made.append("b")
        b_runs.set()
        until(lambda: "[1/3] a: failed (StageError: a failed); waiting for b" in caplog.text)

    listed = [fold("a", a), fold("b", b), fold("c", lambda: made.append("c"))]
    with pytest.raises(StageError, match="a failed"):
        run_stages(listed, str(tmp_path), at_once=two)
    assert made == ["b"]
    assert [done_record(stage, str(tmp_path)) is not None for stage in listed] == [False, True, False]
    fails = False
    results = run_stages(listed, str(tmp_path), at_once=two)
    assert made == ["b", "c"]
    assert [result.skipped for result in results.values()] == [False, True, False]
    record = done_record(listed[0], str(tmp_path))
    assert record is not None
    assert record["attempts"] == 2


def test_of_several_failures_the_first_is_raised_and_the_others_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    b_runs = threading.Event()

    def a() -> None:
        assert b_runs.wait(WAIT)
        raise ZeroDivisionError("a's bug")

    def b() -> None:
        b_runs.set()
        until(lambda: "waiting for b" in caplog.text)
        raise StageError("b failed")

    with pytest.raises(ZeroDivisionError, match="a's bug"):
        run_stages([fold("a", a), fold("b", b)], str(tmp_path), at_once=two)
    assert "[2/2] b: failed too (StageError: b failed)" in caplog.text


@pytest.fixture
def _interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also in a shell's background, where it would be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts")
def test_an_interrupt_does_not_wait_for_those_that_run(tmp_path: Path):
    both, free = threading.Barrier(2, timeout=WAIT), threading.Event()
    threads: list[threading.Thread] = []
    main = threading.main_thread().ident
    assert main is not None

    def run() -> None:
        threads.append(threading.current_thread())
        if both.wait() == 0:
            signal.pthread_kill(main, signal.SIGINT)
        free.wait(WAIT)

    listed = [fold("a", run), fold("b", run), fold("c", run)]
    try:
        with pytest.raises(KeyboardInterrupt):
            run_stages(listed, str(tmp_path), at_once=two)
        assert [thread.is_alive() for thread in threads] == [True, True]
        assert [done_record(stage, str(tmp_path)) for stage in listed] == [None] * 3
    finally:
        free.set()
        for thread in threads:
            thread.join(WAIT)


INTERRUPTED = """
import signal, sys, threading
from raysem.stages import Stage, run_stages
signal.signal(signal.SIGINT, signal.default_int_handler)
both = threading.Barrier(2)
def run(folder):
    if both.wait() == 0:
        print("running", flush=True)
    threading.Event().wait()
run_stages([Stage(name, run, group="folds") for name in "abc"], sys.argv[1], at_once=lambda: 2)
"""


def test_an_interrupted_process_ends_though_its_stages_never_would(tmp_path: Path):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert answer(driver) == "running"
        driver.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in driver.communicate(timeout=60)[1]
    assert driver.returncode != 0


def test_until_names_a_stage_or_a_group_of_them():
    listed = [Stage(name, nothing) for name in ("a", "select/x", "select/y", "selected", "b")]
    assert [stage.name for stage in stages_until(listed, None)] == ["a", "select/x", "select/y", "selected", "b"]
    assert [stage.name for stage in stages_until(listed, "select")] == ["a", "select/x", "select/y"]
    assert [stage.name for stage in stages_until(listed, "select/x")] == ["a", "select/x"]
    with pytest.raises(UserError, match="--until selec: no such stage; there are a, select/x, select/y, selected, b"):
        stages_until(listed, "selec")


def test_stages_are_put_after_what_they_read_and_what_is_only_read_comes_too(calls: Calls):
    a, b, c = calls.chain()
    assert in_order([c]) == [a, b, c]
    assert in_order([c, a, b, c]) == [a, b, c]
    other = calls.of("d")
    assert in_order([other, c]) == [other, a, b, c]


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two stages are named a"):
        in_order([Stage("a", nothing, 1), Stage("a", nothing, 2)])


def test_a_plan_tells_what_has_changed_since_the_last_run(calls: Calls, tmp_path: Path):
    output = str(tmp_path)
    assert write_plan(calls.chain(), output, {"seed": 0, "a": {"b": 1}}) == []
    assert write_plan(calls.chain(), output, {"seed": 1, "a": {"b": 1}}) == ["seed: 0 -> 1"]
    assert [stage["name"] for stage in storage.read_json(storage.join(output, PLAN))["stages"]] == ["a", "b", "c"]
    for damaged in ("", "[]", "{}"):
        storage.write_text(storage.join(output, PLAN), damaged)
        assert write_plan(calls.chain(), output, {"seed": 1}) == []


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
    monkeypatch.setattr(stages, "HEARTBEAT_SECONDS", 0.01)
    with run_lock(str(tmp_path)):
        first = json.loads((tmp_path / LOCK).read_text())["beat"]
        until(lambda: json.loads((tmp_path / LOCK).read_text())["beat"] > first)
    assert not (tmp_path / LOCK).exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "raysem-lock"]


def test_a_heartbeat_survives_a_store_that_fails_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "HEARTBEAT_SECONDS", 0.01)
    write, failures = storage.write_json, []

    def fail_twice(location: str, content: Any) -> None:
        if threading.current_thread().name == "raysem-lock" and len(failures) < 2:
            failures.append(location)
            raise storage.StorageError(f"{location}: cannot be reached")
        write(location, content)

    monkeypatch.setattr(storage, "write_json", fail_twice)
    with run_lock(str(tmp_path)):
        first = json.loads((tmp_path / LOCK).read_text())["beat"]
        until(lambda: json.loads((tmp_path / LOCK).read_text())["beat"] > first)
    assert len(failures) == 2


def test_a_lock_that_another_driver_took_over_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(stages, "HEARTBEAT_SECONDS", 0.01)
    with run_lock(str(tmp_path)):
        taken = lock_of(host="elsewhere", pid=7, token="theirs")
        storage.write_json(str(tmp_path / LOCK), taken)
        until(lambda: "taken over by process 7 on elsewhere" in caplog.text)
    assert storage.read_json(str(tmp_path / LOCK)) == taken


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


DRIVER = """
import sys
from raysem.errors import UserError
from raysem.stages import run_lock
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


def answer(driver: subprocess.Popen[str]) -> str:
    assert driver.stdout is not None
    return driver.stdout.readline().strip()


def test_of_drivers_that_start_at_once_one_holds_the_output(tmp_path: Path):
    drivers = [start_driver(tmp_path) for _ in range(3)]
    answers = [answer(driver) for driver in drivers]
    for driver in drivers:
        driver.communicate("go\n")
    assert answers.count("held") == 1
    assert all("is at work on this output" in said or said == "held" for said in answers)
    assert storage.list_files(str(tmp_path)) == []


def test_a_killed_driver_leaves_a_lock_that_the_next_one_takes(tmp_path: Path):
    driver = start_driver(tmp_path)
    assert answer(driver) == "held"
    with pytest.raises(UserError, match=f"process {driver.pid} on"):
        run_lock(str(tmp_path)).__enter__()
    driver.kill()
    driver.communicate()
    assert (tmp_path / LOCK).exists()
    with run_lock(str(tmp_path)):
        assert read_lock(str(tmp_path)) == {"host": socket.gethostname(), "pid": os.getpid()}


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
    said = [answer(sharer).split() for sharer in sharers]
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
    assert answer(second) == "False second"
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
