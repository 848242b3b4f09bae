"""Classification over k folds: each clip is scored once, by the model that never saw its fold. Arrays in, numbers out.

Two spreads stand beside each other and are not the same: the standard deviation over folds says how much k trainings
on other parts of one corpus differ, the interval over the pooled clips what another draw of clips might have given.
"""

# Shapes: A clips (of one fold, or of all where `pooled` says so), K classes.

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from raysem.config import Settings
from raysem.evaluation.class_confusions import ClassConfusions
from raysem.evaluation.differences import Difference, paired_differences
from raysem.evaluation.scored_folds import ScoredFold, check_labels, pooled_folds
from raysem.metrics.accuracy import top1_correct
from raysem.metrics.bootstrap import Interval, bootstrap_interval

POOLED = "all folds"  # the set of a difference


class ClassificationSettings(Settings):
    """How the numbers of a classifier are bounded; written into each result."""

    num_resamples: PositiveInt = 2000
    """Resamples of the bootstrap over clips."""
    interval_level: float = Field(0.95, gt=0, lt=1)
    num_confused_pairs: PositiveInt = 10
    """How many of the most confused pairs of classes are listed."""


@dataclass(frozen=True, eq=False)
class FoldResult:
    """One test fold; the interval is over its clips."""

    fold: int
    interval: Interval
    num_clips: int
    num_unscored: int


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """One model over its folds; `correct_A` are the pooled clips, fold after fold as in `folds`."""

    folds: tuple[FoldResult, ...]  # by number
    interval: Interval  # over the pooled clips
    correct_A: np.ndarray  # 1, 0, or 1 / m where m classes tie
    confusions: ClassConfusions
    settings: ClassificationSettings

    @property
    def mean(self) -> float:
        """Of the folds' accuracies, each fold weighing the same: what papers print."""
        return statistics.fmean(one.interval.estimate for one in self.folds)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1) of the folds' accuracies; a single fold has none."""
        values = [one.interval.estimate for one in self.folds]
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def accuracy(self) -> float:
        """Share of the pooled clips that are classified right; not `mean` where folds differ in size."""
        return self.interval.estimate

    def to_json(self) -> dict[str, Any]:
        """The part of summary.json under `classification`; `by_fold` goes by number, `sd` of a single fold is None."""
        return {
            "mean": self.mean,
            "sd": self.deviation,
            "by_fold": [
                {
                    "fold": one.fold,
                    "accuracy": one.interval.estimate,
                    "interval": one.interval.to_json(),
                    "num_clips": one.num_clips,
                    "num_unscored": one.num_unscored,
                }
                for one in self.folds
            ],
            "pooled": {
                "accuracy": self.accuracy,
                "interval": self.interval.to_json(),
                "num_clips": len(self.correct_A),
                "num_unscored": sum(one.num_unscored for one in self.folds),
                **self.confusions.to_json(),
            },
            "interval_level": self.settings.interval_level,
            "num_resamples": self.settings.num_resamples,
        }


def classification_result(
    folds: Mapping[int, ScoredFold], labels: Sequence[str], *, settings: ClassificationSettings, seed: int = 0
) -> ClassificationResult:
    """Every number of one model.

    Clips are drawn again one by one: where several were cut from one recording (ESC-50, UrbanSound8K) the intervals
    are too narrow.

    Args:
        seed: of the bootstrap only; the same clips are drawn for every model that is given it.

    Raises:
        ValueError: two classes have one label, or what `pooled_folds` refuses.
    """
    check_labels(labels)
    pooled = pooled_folds(folds)
    if pooled.scores_AK.shape[1] != len(labels):
        raise ValueError(f"one score for each of {len(labels)} labels, got {pooled.scores_AK.shape[1]}")

    def interval(values_A: np.ndarray) -> Interval:
        return bootstrap_interval(
            values_A, seed=seed, num_resamples=settings.num_resamples, level=settings.interval_level
        )

    correct_A = top1_correct(pooled.scores_AK, pooled.target_A)
    return ClassificationResult(
        folds=tuple(
            FoldResult(fold, interval(correct_A[pooled.fold_A == fold]), len(one.clip_ids), one.num_unscored)
            for fold, one in sorted(folds.items())
        ),
        interval=interval(correct_A),
        correct_A=correct_A,
        confusions=ClassConfusions.of(pooled.scores_AK, pooled.target_A, labels, count=settings.num_confused_pairs),
        settings=settings,
    )


def classification_differences(
    models: Mapping[str, Mapping[int, ScoredFold]],
    baselines: Sequence[str],
    *,
    settings: ClassificationSettings,
    seed: int = 0,
    set_name: str = POOLED,
) -> list[Difference]:
    """Each model against each baseline in pooled accuracy, paired clip by clip; models in the order given.

    Args:
        models: folds by model; each fold holds the same clips for every model, in any order.
        baselines: names of models; a baseline is compared with those before it only, as in `paired_differences`.

    Raises:
        ValueError: two models were scored on other clips, or on other labels of the same clips.
    """
    if not models:
        raise ValueError("no models to compare")
    pooled = {name: pooled_folds(folds, name).sorted() for name, folds in models.items()}
    first_name, first = next(iter(pooled.items()))
    for name, one in pooled.items():
        keys = set(zip(one.fold_A.tolist(), one.clip_ids, strict=True))
        others = set(zip(first.fold_A.tolist(), first.clip_ids, strict=True))
        if keys != others:
            fold, clip_id = min(keys ^ others)
            raise ValueError(
                f"{name} and {first_name} were not scored on the same clips: {len(keys ^ others)} differ, "
                f"the first is {clip_id!r} of fold {fold}"
            )
        if (one.target_A != first.target_A).any():
            clip_id = one.clip_ids[int(np.flatnonzero(one.target_A != first.target_A)[0])]
            raise ValueError(f"{name} and {first_name} have other labels of the same clips: the first is {clip_id!r}")
    return paired_differences(
        {name: top1_correct(one.scores_AK, one.target_A) for name, one in pooled.items()},
        baselines,
        set_name=set_name,
        metric="accuracy",
        seed=seed,
        num_resamples=settings.num_resamples,
        level=settings.interval_level,
    )
