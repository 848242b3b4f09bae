"""Models side by side: how far each is from the teacher and from the control, on the same clips."""

# Shapes: S seeds, A clips.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysem.metrics.bootstrap import Interval, paired_difference_interval


@dataclass(frozen=True)
class Difference:
    """student - baseline of a mean over clips; positive when the student is better."""

    student: str
    baseline: str
    set_name: str
    metric: str
    interval: Interval
    num_clips: int
    num_seeds: int

    def to_json(self) -> dict[str, Any]:
        """One row of `evaluation.differences` in summary.json."""
        return {
            "student": self.student,
            "baseline": self.baseline,
            "set": self.set_name,
            "metric": self.metric,
            "difference": self.interval.estimate,
            "interval": self.interval.to_json(),
            "interval_level": self.interval.level,
            "num_clips": self.num_clips,
            "num_seeds": self.num_seeds,
        }


def paired_differences(
    correct: Mapping[str, np.ndarray],
    baselines: Sequence[str],
    *,
    set_name: str,
    metric: str = "accuracy",
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> list[Difference]:
    """Each model against each baseline, with a paired bootstrap interval; models in the order given.

    Args:
        correct: by model, (A,) or (S seeds, A) values of the same clips in the same order: `ZeroShotResult.correct_A`
            of each seed, stacked.
        baselines: names in `correct`, teacher first: a baseline is compared with those before it only, so that
            the control's own difference from the teacher is listed once.
    """
    absent = [name for name in baselines if name not in correct]
    if absent:
        raise ValueError(f"no baseline {absent}; there are {list(correct)}")
    rows = []
    for name, values in correct.items():
        against = baselines[: baselines.index(name)] if name in baselines else baselines
        for baseline in against:
            try:
                interval = paired_difference_interval(
                    values, correct[baseline], seed=seed, num_resamples=num_resamples, level=level
                )
            except ValueError as error:
                raise ValueError(f"{set_name}: {name} against {baseline}: {error}") from error
            num_seeds, num_clips = np.atleast_2d(values).shape
            rows.append(Difference(name, baseline, set_name, metric, interval, num_clips, num_seeds))
    return rows
