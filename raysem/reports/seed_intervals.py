"""Runs that differ by seed only, as one result: accuracies and differences with intervals over clips and seeds."""

# Shapes: S seeds, A clips.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysem.errors import DataError
from raysem.evaluation.differences import paired_differences
from raysem.metrics.bootstrap import Interval, bootstrap_interval

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class ClipScores:
    """One run on one set: which clips, and for each model 1, 0 or a share for each of them (`correct_A`)."""

    clip_ids: Sequence[str]
    correct: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SeedRow:
    """A model over all seeds; `differences` by baseline, None for a baseline itself and for those after it."""

    model: str
    accuracy: Interval
    by_seed: tuple[float, ...]
    differences: dict[str, Interval | None]


def over_seeds(
    set_name: str, runs: Sequence[ClipScores], *, baselines: Sequence[str], level: float = 0.95
) -> list[SeedRow]:
    """The models that every run has, with intervals from clips and seeds drawn again, crossed.

    With few seeds the interval is too narrow (see `raysem.metrics.bootstrap`).

    Args:
        baselines: those that the runs lack are left out.

    Raises:
        DataError: two runs were scored on other clips.
    """
    first = runs[0].clip_ids
    order = {clip_id: place for place, clip_id in enumerate(first)}
    models = [model for model in runs[0].correct if all(model in run.correct for run in runs)]
    stacked: dict[str, list[np.ndarray]] = {model: [] for model in models}
    for run in runs:
        if len(run.clip_ids) != len(first) or set(run.clip_ids) != order.keys():
            raise DataError(f"compare: the runs were scored on other clips of {set_name}, they cannot be joined")
        place_A = np.argsort([order[clip_id] for clip_id in run.clip_ids])
        for model in models:
            stacked[model].append(np.asarray(run.correct[model], np.float64)[place_A])
    correct = {model: np.stack(rows) for model, rows in stacked.items()}
    present = [baseline for baseline in baselines if baseline in correct]
    found = {
        (row.student, row.baseline): row.interval
        for row in paired_differences(correct, present, set_name=set_name, num_resamples=NUM_RESAMPLES, level=level)
    }
    return [
        SeedRow(
            model,
            bootstrap_interval(values_SA, seed=0, num_resamples=NUM_RESAMPLES, level=level),
            tuple(float(value) for value in values_SA.mean(axis=1)),
            {baseline: found.get((model, baseline)) for baseline in present},
        )
        for model, values_SA in correct.items()
    ]
