"""Tagging: mAP, d' and OmAP of one model, with the floor and the intervals that they mean nothing without."""

# Shapes: N clips, K classes, L levels.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from raysem.config import Settings
from raysem.evaluation.differences import Difference
from raysem.evaluation.wrong_tags import WrongTags, wrong_tags
from raysem.metrics.accuracy import top1_correct
from raysem.metrics.d_prime import d_prime, roc_auc
from raysem.metrics.multi_label import as_numpy
from raysem.metrics.omap_bounds import (
    PrecisionIntervals,
    RandomFloor,
    precision_difference_intervals,
    precision_intervals,
    random_floor,
)
from raysem.metrics.ontology_aware import TaggingPrecision, tagging_precision


class TaggingSettings(Settings):
    """How the numbers of a tagger are bounded; written into each result."""

    num_resamples: int = Field(200, ge=2)
    """Resamples of the bootstrap over clips; each costs about a tenth of an OmAP."""
    interval_level: float = Field(0.95, gt=0, lt=1)
    num_floor_draws: PositiveInt = 3
    """Draws of random scores for the floor; each costs an OmAP."""


@dataclass(frozen=True)
class TaggingResult:
    """One model on one labelled set. Clips that could not be scored are in none of its numbers but `num_unscored`."""

    class_names: tuple[str, ...]
    precision: TaggingPrecision
    intervals: PrecisionIntervals
    floor: RandomFloor
    mistakes: WrongTags
    d_prime: float | None  # infinite when every clip with a class scores above every one without; None: no such class
    accuracy: float | None  # of the best-scored class; None where a clip has no label or several
    positives_K: np.ndarray
    num_clips: int
    num_unlabelled: int  # clips without any label: each of their tags is wrong, at the longest distance
    num_unscored: int
    settings: TaggingSettings

    def to_json(self) -> dict[str, Any]:
        """The part of summary.json under `tagging.<set>`; what is not defined or infinite is None."""
        return {
            "mAP": self.precision.mean_average_precision,
            "mAP_interval": self.intervals.mean_average_precision.to_json(),
            "OmAP": self.precision.ontology_aware,
            "OmAP_interval": self.intervals.ontology_aware.to_json(),
            "interval_level": self.settings.interval_level,
            "num_resamples": self.settings.num_resamples,
            "OmAP_by_level": self.precision.by_level.tolist(),
            "random_floor": {
                "OmAP": self.floor.mean,
                "OmAP_deviation": _finite(self.floor.deviation),
                "OmAP_by_level": self.floor.by_level.tolist(),
                "mAP": self.floor.mean_average_precision,
                "num_draws": self.settings.num_floor_draws,
            },
            "d_prime": _finite(self.d_prime),
            "accuracy": self.accuracy,
            "false_positive_distance": _finite(self.mistakes.mean_distance),
            "false_positives_by_distance": self.mistakes.by_distance.tolist(),
            "num_clips": self.num_clips,
            "num_unlabelled": self.num_unlabelled,
            "num_unscored": self.num_unscored,
            "num_positives": int(self.positives_K.sum()),
            "num_classes": len(self.class_names) - self.precision.num_absent,
            "num_absent": self.precision.num_absent,
            "per_class": [
                {"name": name, "num_positives": int(positives), "AP": _finite(plain), "OmAP": _finite(aware)}
                for name, positives, plain, aware in zip(
                    self.class_names, self.positives_K, self.precision.plain_K, self.precision.per_class, strict=True
                )
            ],
        }


def tagging_result(
    scores_NK: Any,
    targets_NK: Any,
    distances_KK: Any,
    class_names: Sequence[str],
    *,
    settings: TaggingSettings,
    seed: int = 0,
    num_unscored: int = 0,
    floor: RandomFloor | None = None,
) -> TaggingResult:
    """Every number of one model on one set.

    Args:
        scores_NK, targets_NK, distances_KK: as for `raysem.metrics.ontology_aware.tagging_precision`.
        seed: of the bootstrap and the floor; the same clips are drawn for every model that is given it.
        num_unscored: clips of the set that gave no scores; they are rejects, and in none of the arrays.
        floor: of the same labels, where a model before had it: it knows no model.
    """
    targets_NK = as_numpy(targets_NK)
    precision = tagging_precision(scores_NK, targets_NK, distances_KK)
    if len(class_names) != targets_NK.shape[1]:
        raise ValueError(f"one name for each of {targets_NK.shape[1]} classes, got {len(class_names)}")
    if floor is None:
        floor = random_floor(targets_NK, distances_KK, seed=seed, num_draws=settings.num_floor_draws)
    if floor.by_level.shape != precision.by_level.shape:
        raise ValueError(
            f"the floor has {len(floor.by_level)} levels, these classes {len(precision.by_level)}: of other classes"
        )
    labels_N = targets_NK.sum(axis=1)
    area_K = roc_auc(scores_NK, targets_NK)
    return TaggingResult(
        class_names=tuple(class_names),
        precision=precision,
        intervals=precision_intervals(
            scores_NK,
            targets_NK,
            distances_KK,
            seed=seed,
            num_resamples=settings.num_resamples,
            level=settings.interval_level,
        ),
        floor=floor,
        mistakes=wrong_tags(scores_NK, targets_NK, distances_KK),
        d_prime=d_prime(float(np.nanmean(area_K))) if np.isfinite(area_K).any() else None,
        accuracy=(
            float(top1_correct(as_numpy(scores_NK), targets_NK.argmax(axis=1)).mean())
            if (labels_N == 1).all()
            else None
        ),
        positives_K=targets_NK.sum(axis=0).astype(np.int64),
        num_clips=len(targets_NK),
        num_unlabelled=int((labels_N == 0).sum()),
        num_unscored=num_unscored,
        settings=settings,
    )


def tagging_differences(
    scores_by_model: Mapping[str, Any],
    targets_NK: Any,
    distances_KK: Any,
    baselines: Sequence[str],
    *,
    set_name: str,
    settings: TaggingSettings,
    seed: int = 0,
) -> list[Difference]:
    """Each model against each baseline in OmAP and mAP, with paired bootstrap intervals; models in the order given.

    Args:
        scores_by_model: scores_NK of the same clips in the same order.
        baselines: names of models; a baseline is compared with those before it only, as in `paired_differences`.
    """
    absent = [name for name in baselines if name not in scores_by_model]
    if absent:
        raise ValueError(f"no baseline {absent}; there are {list(scores_by_model)}")
    num_clips = len(as_numpy(targets_NK))
    rows = []
    for name, scores_NK in scores_by_model.items():
        for baseline in baselines[: baselines.index(name)] if name in baselines else baselines:
            try:
                found = precision_difference_intervals(
                    scores_NK,
                    scores_by_model[baseline],
                    targets_NK,
                    distances_KK,
                    seed=seed,
                    num_resamples=settings.num_resamples,
                    level=settings.interval_level,
                )
            except ValueError as error:
                raise ValueError(f"{set_name}: {name} against {baseline}: {error}") from error
            for metric, interval in (("OmAP", found.ontology_aware), ("mAP", found.mean_average_precision)):
                rows.append(Difference(name, baseline, set_name, metric, interval, num_clips, num_seeds=1))
    return rows


def _finite(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity."""
    return None if value is None or not math.isfinite(value) else float(value)
