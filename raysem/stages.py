"""Stages: named pieces of a run, each with a digest over its inputs and settings, run once and then skipped.

A stage writes below `<output>/<name>/<digest>/` and is finished when `_done.json` is there. The digest covers the
stage's settings, its revision and the digests of the stages it reads, so a changed recipe gives the stages it touches
new folders and leaves the others as they are. Stages run one after the other; those of a group, as the folds of a
cross-validation, side by side where there is room. Nothing here knows audio or Ray.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysem import config, storage
from raysem.errors import UserError
from raysem.ledger import Ledger
from raysem.locks import stage_lock
from raysem.logs import duration

log = logging.getLogger(__name__)

DONE = "_done.json"
PLAN = "run.json"


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
    verify: bool = False,
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
        verify: a finished stage whose shards are not as their records say is run again, which makes only those.
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
    if verify:
        for stage in chosen:
            _reopen_if_damaged(stage, output)
    join = functools.cache(connect or (lambda: None))
    places = [_Place(stage, stage.folder(output), f"[{i}/{len(chosen)}]", shared) for i, stage in enumerate(chosen, 1)]
    results: dict[str, StageResult] = {}
    for _, group in itertools.groupby(places, key=lambda place: place.stage.group or place):
        results |= _run_group(list(group), output, join, at_once)
    return results


def _reopen_if_damaged(stage: Stage, output: storage.Location) -> None:
    folder = stage.folder(output)
    if done_record(stage, output) is not None and Ledger(folder).is_damaged():
        log.warning("%s: not as it was written; what is damaged is made again", stage.name)
        storage.delete(storage.join(folder, DONE))


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
        except BaseException as error:  # whatever ends a thread is the caller's to raise, who else would wait for ever
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
    with stage_lock(place.folder):
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
