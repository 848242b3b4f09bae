"""What an OmAP is worth: the floor of random scores on the same labels, and its interval over clips."""

# Shapes: N clips, K classes, R draws, L levels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysem.metrics.bootstrap import Interval
from raysem.metrics.multi_label import as_numpy, tag_scores
from raysem.metrics.ontology_aware import LevelCounter, TaggingPrecision


@dataclass(frozen=True)
class RandomFloor:
    """What uniform random scores reach on some labels: mean and standard deviation over several draws."""

    mean: float
    deviation: float
    by_level: np.ndarray
    mean_average_precision: float


def random_floor(targets_NK: Any, distances_KK: Any, *, seed: int, num_draws: int = 3) -> RandomFloor:
    """The OmAP (and mAP) of uniform random scores on these labels; without it an OmAP says nothing.

    The deviation of one draw is about 0.0003 on AudioSet's evaluation clips and grows as clips become fewer.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws must be positive, got {num_draws}")
    targets_NK = as_numpy(targets_NK)
    generator = np.random.default_rng(seed)
    drawn: list[TaggingPrecision] = []
    for _ in range(num_draws):
        tags = tag_scores(generator.random(targets_NK.shape, dtype=np.float32), targets_NK)
        drawn.append(LevelCounter(tags, distances_KK).precision())
    values_R = np.array([precision.ontology_aware for precision in drawn])
    return RandomFloor(
        mean=float(values_R.mean()),
        deviation=float(values_R.std(ddof=1)) if num_draws > 1 else float("nan"),
        by_level=np.mean([precision.by_level for precision in drawn], axis=0),
        mean_average_precision=float(np.mean([precision.mean_average_precision for precision in drawn])),
    )


@dataclass(frozen=True)
class PrecisionIntervals:
    """Percentile intervals of OmAP and mAP, or of their differences, from the same draws of clips."""

    ontology_aware: Interval
    mean_average_precision: Interval


def precision_intervals(
    scores_NK: Any, targets_NK: Any, distances_KK: Any, *, seed: int, num_resamples: int = 200, level: float = 0.95
) -> PrecisionIntervals:
    """Bootstrap over clips: what another test set of this size might have given.

    The draws lie above the estimate (a clip drawn twice ties with itself, and rare classes drop out: +0.002 on
    AudioSet's evaluation clips, far more on a few hundred), so the interval is their spread around their own mean, laid
    around the estimate. A draw costs a tenth of an OmAP.
    """
    counter = LevelCounter(tag_scores(scores_NK, targets_NK), distances_KK)
    return _intervals([counter], seed=seed, num_resamples=num_resamples, level=level)


def precision_difference_intervals(
    model_NK: Any,
    baseline_NK: Any,
    targets_NK: Any,
    distances_KK: Any,
    *,
    seed: int,
    num_resamples: int = 200,
    level: float = 0.95,
) -> PrecisionIntervals:
    """Intervals of model - baseline on the same clips, drawn together: narrower than two intervals apart suggest."""
    counters = [LevelCounter(tag_scores(scores_NK, targets_NK), distances_KK) for scores_NK in (model_NK, baseline_NK)]
    return _intervals(counters, seed=seed, num_resamples=num_resamples, level=level)


def _intervals(counters: Sequence[LevelCounter], *, seed: int, num_resamples: int, level: float) -> PrecisionIntervals:
    if num_resamples < 2 or not 0 < level < 1:
        raise ValueError(f"num_resamples must be 2 at least and level in (0, 1), got {num_resamples} and {level}")
    num_clips = counters[0].tags.num_clips
    labelled_N = counters[0].tags.has_KN.any(axis=0)
    generator = np.random.default_rng(seed)
    times_RN = generator.multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=num_resamples)
    times_RN = times_RN[times_RN[:, labelled_N].any(axis=1)].astype(np.float64)  # a draw without a label has no value
    whole = [_both(counter.precision()) for counter in counters]
    drawn = [np.array([_both(precision) for precision in counter.resampled(times_RN)]) for counter in counters]
    estimates = whole[0] - whole[1] if len(counters) == 2 else whole[0]
    values_R2 = drawn[0] - drawn[1] if len(counters) == 2 else drawn[0]
    lows, highs = np.quantile(values_R2 - values_R2.mean(axis=0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return PrecisionIntervals(
        *(
            Interval(float(estimate), float(estimate + low), float(estimate + high), level)
            for estimate, low, high in zip(estimates, lows, highs, strict=True)
        )
    )


def _both(precision: TaggingPrecision) -> np.ndarray:
    return np.array([precision.ontology_aware, precision.mean_average_precision])
