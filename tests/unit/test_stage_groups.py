"""Stages of a group: side by side, in order of what they read, and what a failure or an interrupt does to them."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import next_line, until

from raysem.errors import StageError
from raysem.stages import Stage, done_record, run_stages


def nothing(folder: str) -> dict[str, Any]:
    return {}


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
        assert next_line(driver) == "running"
        driver.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in driver.communicate(timeout=60)[1]
    assert driver.returncode != 0
