"""What one trial does: its stages, then its metric; from its record's `running` to `finished` or `failed`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from raysem.errors import RaysemError
from raysem.logs import set_up
from raysem.runs.launch import own_error
from raysem.stages import Stage, StageResult, run_stages
from raysem.sweeps.measured import metric_of, metrics_file, model_stages
from raysem.sweeps.plan import SweepPlan
from raysem.sweeps.selections import curated_facts
from raysem.sweeps.trial import Trial, TrialRecord, TrialRecords, curve_of

log = logging.getLogger(__name__)


def run_trial(plan: SweepPlan, trial: Trial) -> TrialRecord:
    """Run what is not finished of a trial's stages, in this process and on the Ray that it is connected to.

    Raises:
        RaysemError: the trial failed, and its record says why; one line.
    """
    set_up()
    records = TrialRecords(plan.output)
    record = TrialRecord.begun(trial)
    records.write(record)
    log.info("trial %s: %s", trial.id, trial)
    began = time.monotonic()

    def seconds() -> float:
        return round(time.monotonic() - began, 3)

    try:
        needed = plan.needed(trial)
        trained = model_stages(plan.job, needed)
        before = run_stages([stage for stage in needed if stage not in trained], plan.run, shared=True)
        record = _about_to_train(plan, trial, record, before, trained)
        records.write(record)
        found = _trained(plan, record, before, run_stages(trained, plan.run, shared=True))
    except Exception as error:  # whatever it was, the record says so, and the other trials go on
        own = own_error(error)
        reason = " ".join(str(own if own is not None else f"{type(error).__name__}: {error}").split())
        if records.read(trial.id) == record:  # else the scheduler has stopped it, and the error is its end
            records.write(replace(record, status="failed", reason=reason, seconds=seconds(), watched=None))
        raise own if own is not None else RaysemError(reason) from error
    finished = replace(found, seconds=seconds())
    records.write(finished)
    return finished


def _about_to_train(
    plan: SweepPlan, trial: Trial, record: TrialRecord, before: Mapping[str, StageResult], trained: Sequence[Stage]
) -> TrialRecord:
    """With all that is known of it should its training be stopped."""
    record = replace(
        record,
        stages=how_made(before) | {stage.name: "ran" for stage in trained},
        facts=curated_facts(trained[0], plan.run) if plan.job.curated else {},
    )
    if len(trained) > 1:  # several trainings have no one curve
        return record
    steps = plan.job.training(plan.recipe(trial)).steps
    return replace(record, steps=steps, watched=metrics_file(trained[0], plan.run))


def _trained(
    plan: SweepPlan, record: TrialRecord, before: Mapping[str, StageResult], models: Mapping[str, StageResult]
) -> TrialRecord:
    """With its metric."""
    summaries = [result.summary for result in models.values()]
    metric, training = plan.space.metric, plan.job.training(plan.recipe(record.trial))
    return replace(
        record,
        status="finished",
        metric=metric_of(summaries, metric, keep=training.keep),
        curve=curve_of(summaries[0]["training"]["history"], metric) if len(summaries) == 1 else [],
        stages=how_made(before) | how_made(models),
        watched=None,
    )


def how_made(results: Mapping[str, StageResult]) -> dict[str, str]:
    """By stage: made by this trial, or found finished."""
    return {name: "reused" if result.skipped else "ran" for name, result in results.items()}
