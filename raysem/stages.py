"""Stages: named pieces of a run, each with a digest over its inputs and settings, run once and then skipped.

A stage writes below `<output>/<name>/<digest>/` and is finished when `_done.json` is there. The digest covers the
stage's settings, its revision and the digests of the stages it reads, so a changed recipe gives the stages it touches
new folders and leaves the others as they are. Stages run one after the other; those of a group, as the folds of a
cross-validation, side by side where there is room. Nothing here knows audio or Ray.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import logging
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from raysem import config, storage
from raysem.errors import UserError
from raysem.logs import duration

log = logging.getLogger(__name__)

DONE = "_done.json"
LOCK = "_lock.json"
PLAN = "run.json"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Stage:
    """One piece of work. `run(folder)` writes below `folder`, may be called again after a kill, and returns a summary.

    `settings` is any JSON value: everything that changes the output and does not come from `inputs`.
    A change of the code that changes the output raises `revision`. A stage with `needs_cluster` false does all its work
    in this process, and runs before there is a cluster to work on. Neighbours in a run's list with the same `group` may
    run side by side, each in a thread of this process: their `run` leaves alone what belongs to all threads, as torch's
    global generator does.
    """

    name: str
    run: Callable[[storage.Location], dict[str, Any]]
    settings: Any = None
    inputs: Sequence[Stage] = ()
    revision: int = 1
    needs_cluster: bool = True
    group: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        covered = {
            "name": self.name,
            "settings": self.settings,
            "revision": self.revision,
            "inputs": [(stage.name, stage.digest) for stage in self.inputs],
        }
        object.__setattr__(self, "digest", config.digest(covered))

    def folder(self, output: storage.Location) -> storage.Location:
        """Where this stage writes in a run's output."""
        return storage.join(output, self.name, self.digest)


@dataclass(frozen=True)
class StageResult:
    """A finished stage: where it lies, what it said of itself, and whether this run had to do it."""

    stage: Stage
    folder: storage.Location
    summary: dict[str, Any]
    seconds: float
    skipped: bool


def done_record(stage: Stage, output: storage.Location) -> dict[str, Any] | None:
    """The stage's `_done.json`, or None when it is not finished."""
    return _record_in(stage.folder(output), stage)


def _record_in(folder: storage.Location, stage: Stage) -> dict[str, Any] | None:
    try:
        record = storage.read_json(storage.join(folder, DONE))
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"summary", "seconds", "attempts"} <= record.keys():
        log.warning("%s: %s is not readable; the stage is run again", stage.name, DONE)
        return None
    return record


def run_stages(
    stages: Sequence[Stage],
    output: storage.Location,
    *,
    until: str | None = None,
    fresh: bool = False,
    connect: Callable[[], None] | None = None,
    at_once: Callable[[], int] | None = None,
    shared: bool = False,
) -> dict[str, StageResult]:
    """Run what is not finished, in order, and return every result by stage name, in that order too.

    When a stage of a group fails while others of it run, no more are started, and the error is raised once those have
    ended. An interrupt does not wait for them: their threads are left behind, and end with the process.

    Args:
        until: stop after the last stage whose name is this, or begins with it and a slash.
        fresh: remove the folders of these stages first.
        connect: called once, before the first stage that has to run and needs the cluster.
        at_once: how many stages of one group may run at the same time; asked before a group of which two or more have
            to run, after `connect` where one of them needs the cluster. None, and 1, run every stage in this thread.
        shared: others run stages in this output now, too: each stage is locked while it runs, and one that another
            process runs is waited for and then skipped.

    Raises:
        StageError: a stage failed; what it wrote stays.
    """
    chosen = stages_until(stages, until)
    if fresh:
        for stage in chosen:
            storage.delete(stage.folder(output))
    join = functools.cache(connect or (lambda: None))
    places = [_Place(stage, stage.folder(output), f"[{i}/{len(chosen)}]", shared) for i, stage in enumerate(chosen, 1)]
    results: dict[str, StageResult] = {}
    for _, group in itertools.groupby(places, key=lambda place: place.stage.group or place):
        results |= _run_group(list(group), output, join, at_once)
    return results


@dataclass(frozen=True)
class _Place:
    """A stage within the list that is run."""

    stage: Stage
    folder: storage.Location
    mark: str
    """As the log shows it: [3/12]."""
    shared: bool


def _run_group(
    places: Sequence[_Place], output: storage.Location, join: Callable[[], None], at_once: Callable[[], int] | None
) -> dict[str, StageResult]:
    """Run what is not finished of a group, or of a single stage, and return every result in order."""
    records = {place.stage.name: done_record(place.stage, output) for place in places}
    unfinished = [place for place in places if records[place.stage.name] is None]
    width = 1
    if at_once is not None and len(unfinished) > 1:
        if any(place.stage.needs_cluster for place in unfinished):
            join()
        width = at_once()
        if width < 1:
            raise ValueError(f"at_once: expected at least one stage at a time, got {width}")
    results: dict[str, StageResult] = {}
    for place in places:
        stage, record = place.stage, records[place.stage.name]
        if record is not None:
            results[stage.name] = _skipped(place, record)
        elif width == 1:
            if stage.needs_cluster:
                join()
            results[stage.name] = _run_stage(place)
    if width > 1:
        results |= _run_side_by_side(unfinished, width)
    return {place.stage.name: results[place.stage.name] for place in places}


def _run_side_by_side(places: Sequence[_Place], width: int) -> dict[str, StageResult]:
    """Run stages in threads, at most `width` at a time, each when what it reads of them is done."""
    ended: queue.SimpleQueue[tuple[_Place, StageResult | BaseException]] = queue.SimpleQueue()

    def run(place: _Place) -> None:
        try:
            ended.put((place, _run_stage(place)))
        except BaseException as error:
            ended.put((place, error))

    waiting, running = {place.stage.name: place for place in places}, dict[str, _Place]()
    results: dict[str, StageResult] = {}
    failed: BaseException | None = None
    while running or (waiting and failed is None):
        if failed is None:
            unfinished = {**waiting, **running}
            ready = [
                name
                for name, place in waiting.items()
                if not any(read.name in unfinished for read in place.stage.inputs)
            ]
            for name in ready[: width - len(running)]:
                running[name] = place = waiting.pop(name)
                # daemon: the end of the process waits for no stage
                threading.Thread(target=run, args=(place,), daemon=True, name=f"raysem-{name}").start()
        place, outcome = ended.get()
        name = place.stage.name
        del running[name]
        if isinstance(outcome, StageResult):
            results[name] = outcome
            continue
        what = f"{type(outcome).__name__}: {outcome}"
        if failed is not None:
            log.error("%s %s: failed too (%s)", place.mark, name, what)
        elif running:
            log.error("%s %s: failed (%s); waiting for %s", place.mark, name, what, ", ".join(running))
        failed = failed or outcome
    if failed is not None:
        raise failed
    return results


def _skipped(place: _Place, record: Mapping[str, Any]) -> StageResult:
    log.info("%s %s: finished before, skipped", place.mark, place.stage.name)
    return StageResult(place.stage, place.folder, record["summary"], record["seconds"], skipped=True)


def _run_stage(place: _Place) -> StageResult:
    """Run one stage and write its `_done.json`; where the output is shared, unless another process did meanwhile."""
    if not place.shared:
        return _run_alone(place)
    with _stage_lock(place.folder):
        record = _record_in(place.folder, place.stage)
        return _run_alone(place) if record is None else _skipped(place, record)


def _run_alone(place: _Place) -> StageResult:
    stage, folder = place.stage, place.folder
    attempts = _count_attempt(folder)
    again = f" (attempt {attempts})" if attempts > 1 else ""
    log.info("%s %s%s", place.mark, stage.name, again)
    began = time.time()
    summary = stage.run(folder)
    seconds = round(time.time() - began, 3)
    storage.write_json(
        storage.join(folder, DONE),
        {
            "stage": stage.name,
            "digest": stage.digest,
            "revision": stage.revision,
            "settings": stage.settings,
            "inputs": {before.name: before.digest for before in stage.inputs},
            "attempts": attempts,
            "seconds": seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "summary": summary,
        },
    )
    log.info("%s %s: done in %s", place.mark, stage.name, duration(seconds))
    return StageResult(stage, folder, summary, seconds, skipped=False)


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Each stage once, after the stages it reads, otherwise in the order given; stages that are only read come too."""
    placed: dict[str, Stage] = {}

    def place(stage: Stage) -> None:
        if stage.name not in placed:
            for before in stage.inputs:
                place(before)
            placed[stage.name] = stage
        elif placed[stage.name].digest != stage.digest:
            raise ValueError(f"two stages are named {stage.name}")

    for stage in stages:
        place(stage)
    return list(placed.values())


def stages_until(stages: Sequence[Stage], until: str | None) -> list[Stage]:
    """The stages up to and with the last one named `until`, or below it."""
    if until is None:
        return list(stages)
    last = [i for i, stage in enumerate(stages) if stage.name == until or stage.name.startswith(f"{until}/")]
    if not last:
        raise UserError(f"--until {until}: no such stage; there are {', '.join(stage.name for stage in stages)}")
    return list(stages[: last[-1] + 1])


def write_plan(stages: Sequence[Stage], output: storage.Location, recipe: Mapping[str, Any]) -> list[str]:
    """Record the run's stages and recipe in `run.json`; returns what differs from the recipe recorded before."""
    location = storage.join(output, PLAN)
    try:
        before = storage.read_json(location)["recipe"]
        changes = config.differences(before, dict(recipe))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        changes = []
    plan = [{"name": stage.name, "digest": stage.digest, "settings": stage.settings} for stage in stages]
    storage.write_json(location, {"stages": plan, "recipe": dict(recipe)})
    return changes


def _count_attempt(folder: storage.Location) -> int:
    """Note that an attempt begins; its number, from 1."""
    attempts = storage.join(folder, "attempts")
    number = len(storage.list_files(attempts, ".json")) + 1
    about = {"host": socket.gethostname(), "pid": os.getpid(), "began": time.time()}
    storage.write_json(storage.join(attempts, f"{number:04d}.json"), about)
    return number


@contextmanager
def run_lock(output: storage.Location) -> Iterator[None]:
    """Hold the output for one driver. A second one is refused with the name of the first.

    The lock is a file with a heartbeat; one whose process is gone (same host) or that was silent for a minute is taken
    over. On an object store two drivers that start within the same moment are told apart by reading back.

    Raises:
        UserError: another driver is at work on this output.
    """
    location = storage.join(output, LOCK)
    token = uuid.uuid4().hex
    _acquire(location, token)
    with _held(location, token):
        yield


@contextmanager
def _stage_lock(folder: storage.Location) -> Iterator[None]:
    """Hold a stage's folder; while another process does, wait."""
    location = storage.join(folder, LOCK)
    token = uuid.uuid4().hex
    told = False
    while True:
        held = _read_lock(location)
        if held is None or not _is_alive(held):
            try:
                _acquire(location, token)
                break
            except UserError as error:
                log.debug("%s", error)  # another one was faster
        elif not told:
            log.info("%s: process %s on %s is at work on it; waiting", folder, held["pid"], held["host"])
            told = True
        time.sleep(WAIT_SECONDS)
    with _held(location, token):
        yield


@contextmanager
def _held(location: storage.Location, token: str) -> Iterator[None]:
    """Keep the lock that was taken alive, and give it back."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                held = _read_lock(location)
                if held and held["token"] != token:
                    who = f"process {held['pid']} on {held['host']}"
                    log.error("%s: taken over by %s; end one of the two", location, who)
                    return
                storage.write_json(location, _lock_content(token))
            except OSError as error:
                log.warning("%s: heartbeat not written (%s)", location, error)

    thread = threading.Thread(target=beat, daemon=True, name="raysem-lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        held = _read_lock(location)
        if held and held["token"] == token:
            storage.delete(location)


@contextmanager
def _one_at_a_time(location: storage.Location) -> Iterator[None]:
    """Keep other processes of this machine out of the block, where the file system of `location` can.

    Else of two that find the lock of a killed one, the slower could remove the faster one's new lock for the old.
    """
    if storage.is_remote(location):
        yield
        return
    folder = Path(storage.absolute(location)).parent
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # as on NFS
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _acquire(location: storage.Location, token: str) -> None:
    with _one_at_a_time(location):
        _acquire_alone(location, token)


def _acquire_alone(location: storage.Location, token: str) -> None:
    for _ in range(2):
        held = _read_lock(location)
        if held and _is_alive(held):
            raise UserError(
                f"{location}: process {held['pid']} on {held['host']} is at work on this output since "
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(held['began']))}; wait for it, or end it"
            )
        if held:
            again = _read_lock(location)
            if again and again["token"] == held["token"]:  # else another driver has taken it over meanwhile
                log.info("%s: left behind by process %s on %s, taken over", location, held["pid"], held["host"])
                storage.delete(location)
        if _create(location, token):
            return
    raise UserError(f"{location}: another driver took this output at the same moment; run the command again later")


def _create(location: storage.Location, token: str) -> bool:
    content = _lock_content(token)
    if not storage.is_remote(location):
        path = Path(storage.absolute(location))
        whole = path.with_name(f".{path.name}.{token}")
        storage.write_json(str(whole), content)
        try:
            path.hardlink_to(whole)  # fails if it is there, and nobody ever sees half a lock
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if path.exists():
                return False
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)
        return True
    storage.write_json(location, content)
    time.sleep(1.0)  # the later of two writers wins on an object store; the other one sees it here
    held = _read_lock(location)
    return bool(held and held["token"] == token)


def read_lock(output: storage.Location) -> dict[str, Any] | None:
    """Host and process id of the driver that is at work on `output`, if one is."""
    held = _read_lock(storage.join(output, LOCK))
    return {"host": held["host"], "pid": held["pid"]} if held and _is_alive(held) else None


def _read_lock(location: storage.Location) -> dict[str, Any] | None:
    try:
        held = storage.read_json(location)
    except FileNotFoundError:
        return None
    except ValueError:
        held = None
    damaged = {"host": "unknown", "pid": -1, "began": 0.0, "beat": 0.0, "token": ""}
    return held if isinstance(held, dict) and damaged.keys() <= held.keys() else damaged


def _lock_content(token: str) -> dict[str, Any]:
    began = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": began, "beat": time.time(), "token": token}


def _is_alive(held: Mapping[str, Any]) -> bool:
    if held["host"] == socket.gethostname():
        try:
            return abs(psutil.Process(int(held["pid"])).create_time() - float(held["began"])) < 1.0
        except (psutil.Error, ValueError):
            return False
    return time.time() - float(held["beat"]) < STALE_SECONDS
