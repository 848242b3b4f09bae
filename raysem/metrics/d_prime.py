"""d', the distance between two normal distributions of one variance that would be told apart as well."""

# Shapes: N clips, K classes, J distinct scores of the clips that have a class.

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from raysem.metrics.multi_label import from_the_top, num_reached, tag_scores


def roc_auc(scores_NK: Any, targets_NK: Any) -> np.ndarray:
    """Area under the ROC curve of each class (K,): the chance that a clip with it scores above one without.

    Ties count one half. A class that no clip has, or every clip, is NaN.
    """
    tags = tag_scores(scores_NK, targets_NK)
    area_K = np.full(tags.num_classes, np.nan)
    for index, (scores_N, has_N) in enumerate(zip(tags.scores_KN, tags.has_KN, strict=True)):
        without_N = scores_N[~has_N]
        if not has_N.any() or not len(without_N):
            continue
        thresholds_J, count_J = np.unique(scores_N[has_N], return_counts=True)
        num_cells = len(thresholds_J) + 1
        as_high_J = from_the_top(np.bincount(num_reached(without_N, thresholds_J), minlength=num_cells)[1:])
        above = np.searchsorted(thresholds_J, without_N, side="left")
        above_J = from_the_top(np.bincount(above, minlength=num_cells)[1:])
        lost = count_J @ (as_high_J + above_J) / 2
        area_K[index] = 1 - lost / (has_N.sum() * len(without_N))
    return area_K


def d_prime(area: float) -> float:
    """sqrt(2) times the normal quantile of an area under the ROC curve; 0 at chance, infinite at 1.

    Published numbers are d' of the mean area over classes (AudioSet, PANNs, AST), not the mean of each class's d'.
    """
    if not 0 <= area <= 1:
        raise ValueError(f"an area under the ROC curve lies in [0, 1], got {area}")
    if area in (0, 1):
        return math.copysign(math.inf, area - 0.5)
    return math.sqrt(2) * NormalDist().inv_cdf(area)


def mean_d_prime(scores_NK: Any, targets_NK: Any) -> float:
    """d' of the mean area over the classes for which there is one."""
    return d_prime(float(np.nanmean(roc_auc(scores_NK, targets_NK))))
