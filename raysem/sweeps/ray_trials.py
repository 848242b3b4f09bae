"""Trials on a Ray cluster, listed or searched, and scheduled by Ray Tune; and trials that only count pairs."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Repeater

from raysem import storage
from raysem.curation.ray_shards import run_as_task
from raysem.errors import StageError, UserError
from raysem.sweeps.plan import SweepPlan
from raysem.sweeps.ray_look import ENDED, METRIC, STEP, TRIAL, TuneTrial, read_spelled, spelled
from raysem.sweeps.selections import (
    SelectionInputs,
    count_selections,
    group_key,
    inputs_of,
    rule_of,
    scored_selection,
)
from raysem.sweeps.space import KeySettings, SweepSpace
from raysem.sweeps.trial import Trial, TrialRecord, TrialRecords

log = logging.getLogger(__name__)

LOOKS_ON: dict[str, float] = {"CPU": 0, "memory": 2**20}
"""What a Tune trial reserves: it computes nothing, and Tune refuses to reserve nothing."""


def run_trials(plan: SweepPlan, at_once: int, *, steps: int, first_step: int) -> None:
    """Run every trial of a sweep that has no final record, at most `at_once` side by side.

    Args:
        steps: of the longest training of a trial, and `first_step` that of the first evaluation, for the scheduler.

    Raises:
        StageError: more trials failed than the space allows.
    """
    space, records = plan.space, TrialRecords(plan.output)
    learns = space.search.kind == "tpe" or space.scheduler.kind != "none"
    search = make_search(space, records) if space.search.kind == "tpe" else None
    trials = [] if search is not None else space.trials()
    if not learns:  # nobody needs to hear of the trials that have ended
        trials = [trial for trial in trials if not _is_final(records.read(trial.id))]
    if not trials and search is None:
        return
    watch = _Watch(records, space.max_failed_trials)
    # Tune's own notes are of no use after a kill: the records say more.
    notes = storage.join(plan.output, "tune")
    storage.delete(notes)
    trainable = tune.with_parameters(TuneTrial, space=space, output=plan.output, plan=[ray.put(plan)])
    tuner = tune.Tuner(
        tune.with_resources(trainable, LOOKS_ON),
        param_space={} if search is not None else {TRIAL: tune.grid_search([spelled(trial) for trial in trials])},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode=space.direction,
            search_alg=search,
            scheduler=make_scheduler(space, steps, first_step),
            num_samples=(space.search.trials or 1) * len(space.seeds) if search is not None else 1,
            max_concurrent_trials=at_once,
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=notes,
            callbacks=[watch],
            stop=watch.stopper,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        with _tune_environment():
            tuner.fit()
    finally:
        storage.delete(notes)
    if watch.too_many:
        raise StageError(
            f"{len(watch.failed)} trials failed, max_failed_trials is {space.max_failed_trials}; the first: "
            f"{next(iter(watch.failed.values()))}"
        )


def count_trials(plan: SweepPlan, trials: Sequence[Trial], how: Mapping[str, Mapping[str, str]]) -> list[TrialRecord]:
    """The records of trials that only select; a pass over the stored pairs for all that read the same.

    Args:
        how: of each trial by its id, which stages were made for it.
    """
    selections = {trial.id: scored_selection(plan.trained(trial)[0]) for trial in trials}
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(group_key(selections[trial.id]), []).append(trial)
    found: list[TrialRecord] = []
    for members in groups.values():
        inputs: SelectionInputs = inputs_of(selections[members[0].id], plan.run)
        rules = [rule_of(selections[trial.id]) for trial in members]
        counted = run_as_task(_timed_counts, inputs, rules)
        for trial, counts in zip(members, counted["counts"], strict=True):
            facts = {name: value for name, value in counts.to_json().items() if value is not None}
            found.append(
                TrialRecord(
                    id=trial.id,
                    params=dict(trial.params),
                    seed=trial.seed,
                    status="finished" if plan.space.metric in facts else "failed",
                    reason="" if plan.space.metric in facts else f"{plan.space.metric}: is not known of its pairs",
                    metric=facts.get(plan.space.metric),
                    stages=how[trial.id],
                    seconds=round(counted["seconds"] / len(members), 3),
                    facts=facts,
                )
            )
    return found


def _timed_counts(inputs: SelectionInputs, rules: Sequence[Any]) -> dict[str, Any]:
    began = time.monotonic()
    counts = count_selections(inputs, rules)
    return {"counts": counts, "seconds": time.monotonic() - began}


class _Watch(Callback):
    """Says how trials end that cannot say it themselves, counts failures, and ends the sweep after too many."""

    def __init__(self, records: TrialRecords, max_failed: int):
        self._records, self._max_failed = records, max_failed
        self._curves: dict[str, list[dict[str, float]]] = {}
        self.failed: dict[str, str] = {}
        self.stopper = _StopAll()

    @property
    def too_many(self) -> bool:
        """More have failed than may."""
        return len(self.failed) > self._max_failed

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Keep the curve of a trial that may be stopped."""
        curve = self._curves.setdefault(trial.trial_id, [])
        if ENDED not in result:
            curve.append({"step": result[STEP], "metric": result[METRIC]})

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """It ended by itself, or the scheduler stopped it."""
        trial_id = trial.last_result.get(TRIAL)
        if trial_id is None or self.stopper.stops:
            return
        curve = self._curves.get(trial.trial_id, [])
        step = int(curve[-1]["step"]) if curve else 0
        seconds = round(trial.last_result.get("time_total_s", 0.0), 3)
        record = self._records.end(trial_id, "stopped", f"by the scheduler, after step {step}", curve, seconds)
        if record is not None:
            metric = "no metric" if record.metric is None else f"{record.metric:.6g}"
            log.info("trial %s: %s, %s", trial_id, record.status, metric)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """It raised, or its actor is gone."""
        ours = self._find(trial)
        record = self._records.end(ours, "failed", "the process that looked on died", []) if ours else None
        if _is_final(record):
            log.warning("trial %s: had ended before the process that looked on did", ours)
            return
        reason = record.reason if record is not None else str(trial.get_error()).strip().splitlines()[-1]
        self.failed[ours or trial.trial_id] = reason
        log.error("trial %s: failed (%s)", ours or trial.trial_id, reason)
        self.stopper.stops = self.too_many

    def _find(self, trial: Any) -> str | None:
        spelled = trial.config.get(TRIAL)
        if spelled is not None:
            return read_spelled(spelled).id
        return trial.last_result.get(TRIAL) if trial.last_result else None


class _StopAll(Stopper):
    """Ends the sweep when it is told to."""

    def __init__(self) -> None:
        self.stops = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.stops


def make_scheduler(space: SweepSpace, steps: int, first_step: int) -> TrialScheduler:
    """Which trials go on, by their training steps; see `run_trials`."""
    asked = space.scheduler
    grace = asked.grace_steps or first_step
    if asked.kind == "asha":
        return ASHAScheduler(
            time_attr=STEP, grace_period=min(grace, steps), max_t=steps + 1, reduction_factor=asked.reduction_factor
        )
    if asked.kind == "median":
        return MedianStoppingRule(time_attr=STEP, grace_period=grace, min_samples_required=asked.min_trials)
    return FIFOScheduler()


def make_search(space: SweepSpace, records: TrialRecords) -> Any:
    """Optuna's TPE; a setting's seeds count as one, by their mean. It begins with what was tried before."""
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise UserError("search.kind: tpe needs Optuna: pip install 'raysem[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = {json.dumps(dict(record.params)): record.params for record in records.all().values()}
    search = OptunaSearch(
        space=OptunaSearch.convert_search_space({name: _domain(key) for name, key in space.swept.items()}),
        metric=METRIC,
        mode=space.direction,
        points_to_evaluate=[
            {name: _encoded(space.swept[name], value) for name, value in params.items()} for params in known.values()
        ]
        or None,
        # What was tried before takes no draws: with the same seed the first ones would come once more.
        seed=space.search.seed + len(known),
    )
    return Repeater(search, repeat=len(space.seeds))


def _domain(key: KeySettings) -> Any:
    if key.is_listed:
        return tune.choice([_encoded(key, value) for value in key.values])
    low, high = key.range
    return tune.uniform(low, high) if key.form == "uniform" else tune.loguniform(low, high)


def _encoded(key: KeySettings, value: Any) -> Any:
    """Listed values as texts: a mapping or a list is no category for Optuna."""
    return json.dumps(value, sort_keys=True) if key.is_listed else value


def _is_final(record: TrialRecord | None) -> bool:
    return record is not None and record.is_final


@contextmanager
def _tune_environment() -> Iterator[None]:
    """Ctrl-C is ours, and Tune writes no results of its own, on the console or in files; `_Watch` says what failed."""
    wanted = {
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ |= wanted
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
