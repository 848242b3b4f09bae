"""What a sweep measures of each job: which stages a trial runs, and the held-out metric in what they leave.

A trial runs the stages of its trained model and what these read. What only scores or shows test sets is not among them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysem import storage
from raysem.config import Settings
from raysem.errors import ConfigError, StageError
from raysem.runs import classification, curate_and_train, tagging
from raysem.runs.launch import Job
from raysem.stages import Stage, in_order
from raysem.sweeps.trial import curve_of
from raysem.training.settings import TrainingSettings

LESS_IS_BETTER = ("held_out_loss",)
CURATED = ("pairs", "clips", "mean_similarity", "precision")
"""Numbers of the curated set; a sweep by one of them trains nothing."""


@dataclass(frozen=True)
class MeasuredJob:
    """A job as sweeps see it.

    Attributes:
        models: what the names of the stages of trained models begin with.
        metrics: what such a training measures on held-out clips.
        forced: keys that every trial has: one model a trial, and no test set watched in training.
        training: the settings of that training.
        held_out: None, or the key to give held-out clips by, where the recipe has none.
        source: what the metric is measured on.
    """

    job: Job[Any]
    models: str
    metrics: tuple[str, ...]
    forced: Mapping[str, Any]
    training: Callable[[Any], TrainingSettings]
    held_out: Callable[[Any], str | None]
    source: str
    curated: tuple[str, ...] = ()


JOBS: dict[str, MeasuredJob] = {
    "curate_and_train": MeasuredJob(
        job=curate_and_train.JOB,
        models="student/",
        metrics=("held_out_loss", "recall_at_1", "recall_at_1_audio_to_text", "recall_at_1_text_to_audio"),
        forced={"variants": {}},
        training=lambda recipe: recipe.student.training,
        held_out=lambda recipe: None if recipe.corpora.held_out else "corpora.held_out",
        source="the held-out captioned clips",
        curated=CURATED,
    ),
    "train_spa": MeasuredJob(
        job=tagging.JOB,
        models="tagger/",
        metrics=("map", "omap"),
        forced={"variants": {}, "evaluation.watch": False, "evaluation.baseline": ""},
        training=lambda recipe: recipe.tagger.training,
        held_out=lambda recipe: None if recipe.corpora.held_out else "corpora.held_out",
        source="the held-out labelled clips",
    ),
    "train_semanticac": MeasuredJob(
        job=classification.JOB,
        models="classifier/",
        metrics=("accuracy",),
        forced={"variants": {}, "evaluation.baseline": ""},
        training=lambda recipe: recipe.classifier.training,
        held_out=lambda recipe: None if recipe.folds.held_out_share else "folds.held_out_share",
        source="the held-out share of the training folds",
    ),
}


def job_of(name: str) -> MeasuredJob:
    """The job by its name; ConfigError when there is none."""
    if name not in JOBS:
        raise ConfigError(f"job: no job {name!r}; there are {', '.join(JOBS)}")
    return JOBS[name]


def check_metric(job: MeasuredJob, metric: str, direction: str) -> None:
    """ConfigError unless the job measures it, and a loss is made small."""
    known = (*job.metrics, *job.curated)
    if metric not in known:
        raise ConfigError(
            f"metric: {metric!r} is not measured on held-out data of {job.job.name}; there are {', '.join(known)}"
        )
    if metric in LESS_IS_BETTER and direction == "max":
        raise ConfigError(f"metric: {metric} is better when it is less; write direction: min")


def check_recipe(job: MeasuredJob, recipe: Settings) -> None:
    """ConfigError where there are no held-out clips to measure on."""
    missing = job.held_out(recipe)
    if missing is not None:
        raise ConfigError(f"{missing}: is empty; trials are compared on held-out clips, never on a test set")


def model_stages(job: MeasuredJob, stages: Sequence[Stage]) -> list[Stage]:
    """Those that train what is measured."""
    return [stage for stage in stages if stage.name.startswith(job.models)]


def needed_stages(job: MeasuredJob, stages: Sequence[Stage]) -> list[Stage]:
    """What a trial runs: `model_stages` and all that they read, in order."""
    return in_order(model_stages(job, stages))


def metric_of(summaries: Sequence[Mapping[str, Any]], metric: str, *, keep: str) -> float:
    """The mean over the trained models (folds, say) of the metric at the step that each keeps.

    Args:
        summaries: of the model stages; keep: `training.keep`.

    Raises:
        StageError: a training has not measured it.
    """
    values = []
    for summary in summaries:
        training = summary["training"]
        curve = curve_of(training["history"], metric)
        found = training["best_metrics"].get(metric) if keep == "best" else curve[-1]["metric"] if curve else None
        if found is None:
            raise StageError(f"{metric}: was not measured in training; are there held-out clips?")
        values.append(float(found))
    return statistics.fmean(values)


def metrics_file(stage: Stage, output: storage.Location) -> storage.Location:
    """Where a training writes what it measures, while it goes on."""
    return storage.join(stage.folder(output), "metrics.jsonl")
