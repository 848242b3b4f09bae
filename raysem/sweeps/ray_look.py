"""One trial as Ray Tune sees it: an actor that looks on while the trial's stages run as a Ray task beside it.

Not in the actor itself: what runs within a Tune trial's placement group may only use what the group holds, and the
stages start actors, datasets and a training's workers of their own. This file imports no stage: the actor starts fast.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.tune import Trainable
from ray.tune.search.repeater import TRIAL_INDEX

from raysem import storage
from raysem.errors import StageError
from raysem.sweeps.space import SweepSpace
from raysem.sweeps.trial import Trial, TrialRecord, TrialRecords, curve_of

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
CANCEL_SECONDS = 300.0
METRIC, STEP, TRIAL, ENDED = "metric", "step", "trial", "ended"


class TuneTrial(Trainable):
    """Reports each held-out evaluation of the trial's training, from the metrics file that the training writes.

    When Tune stops the trial, its task is cancelled and its end waited for: Ray Train then shuts its workers down and
    gives their placement group back. A trial whose record is final replays its curve, for those who learn from it.
    """

    def setup(self, config: dict[str, Any], space: SweepSpace, output: storage.Location, plan: list[Any]) -> None:  # type: ignore[override] # of with_parameters
        """
        Args:
            plan: a reference to the `SweepPlan`, in a list: it is for the task, and nobody reads it here.
        """
        self._space, self._records = space, TrialRecords(output)
        self._trial = trial_of(config, space)
        self._task: Any = None
        self._curve: list[dict[str, float]] = []
        self._reported = 0
        self._steps = 0  # of its training; what is measured after the last is the trial's end, not a reason to stop it
        record = self._records.read(self._trial.id)
        self._record = record if record is not None and record.is_final else None
        if self._record is not None:
            self._curve, self._steps = list(self._record.curve), self._record.steps
            return
        # DEFAULT: elsewhere than in this actor's placement group.
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy="DEFAULT")(_work)
        self._task = task.remote(plan, self._trial)

    def step(self) -> dict[str, Any]:
        """The next held-out evaluation, or the end of the trial."""
        while True:
            if self._record is None:
                self._look()
            before_end = [point for point in self._curve if point["step"] < self._steps]
            if self._reported < len(before_end):
                point = before_end[self._reported]
                self._reported += 1
                return self._result_of(point["metric"], int(point["step"]))
            if self._record is not None:
                step = int(self._curve[-1]["step"]) if self._curve else 0
                return self._result_of(self._record.metric, step) | {ENDED: True, "done": True}

    def _result_of(self, metric: float | None, step: int) -> dict[str, Any]:
        return {METRIC: metric, STEP: step, TRIAL: self._trial.id}

    def _look(self) -> None:
        """Wait a moment, and see how far the trial is."""
        ended, _ = ray.wait([self._task], timeout=POLL_SECONDS)
        if ended:
            self._record = self._result()
            self._curve, self._steps = list(self._record.curve), self._record.steps
            return
        record = self._records.read(self._trial.id)
        if record is not None and record.watched is not None:
            self._steps = record.steps
            self._curve = read_curve(record.watched, self._space.metric)

    def _result(self) -> TrialRecord:
        task, self._task = self._task, None
        try:
            return ray.get(task)
        except RayError as error:
            # The task itself has written what it raised; this is for one whose process was killed.
            last = str(error).strip().splitlines()[-1]
            record = self._records.end(self._trial.id, "failed", f"the process of the trial ended: {last}", self._curve)
            raise StageError(record.reason if record is not None else last) from None

    def cleanup(self) -> None:
        """Called when the trial ends, and when it is stopped: nothing of it runs afterwards."""
        if self._task is None:
            return
        ray.cancel(self._task)
        ended, _ = ray.wait([self._task], timeout=CANCEL_SECONDS)
        if not ended:
            log.error("trial %s: still runs %g s after it was stopped", self._trial.id, CANCEL_SECONDS)


def _work(plan: list[Any], trial: Trial) -> TrialRecord:
    # Here: the file imports every job, which the actor that looks on does without.
    from raysem.sweeps.trial_run import run_trial

    gc.collect()  # a trial that failed in this process may still hold its actors, with their CPUs, in circles
    return run_trial(ray.get(plan[0]), trial)


def trial_of(config: Mapping[str, Any], space: SweepSpace) -> Trial:
    """The trial that Tune's `config` asks for: one that was listed, or what Optuna suggests, and which seed of it."""
    if TRIAL in config:
        return read_spelled(config[TRIAL])
    params = {name: json.loads(config[name]) if key.is_listed else config[name] for name, key in space.swept.items()}
    return Trial(params, space.seeds[config[TRIAL_INDEX]])


def spelled(trial: Trial) -> str:
    """As one text, in which Tune looks for no search space."""
    return json.dumps({"params": dict(trial.params), "seed": trial.seed})


def read_spelled(text: str) -> Trial:
    """The trial that `spelled` gave."""
    return Trial(**json.loads(text))


def read_curve(location: storage.Location, metric: str) -> list[dict[str, float]]:
    """The held-out evaluations in a metrics file so far; a line that is being written is left for later."""
    try:
        lines = storage.read_bytes(location).decode().splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return curve_of(records, metric)
