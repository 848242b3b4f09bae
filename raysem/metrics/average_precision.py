"""Average precision of each class over the clips, and its mean: the field's mAP."""

# Shapes: N clips, K classes, J distinct scores of the clips that have a class.

from __future__ import annotations

from typing import Any

import numpy as np

from raysem.metrics.multi_label import from_the_top, num_reached, tag_scores, thresholds_of


def average_precision(scores_NK: Any, targets_NK: Any) -> np.ndarray:
    """AP of each class (K,), float64: the sum over distinct thresholds of (R_n - R_{n-1}) P_n, as scikit-learn has it.

    Clips of one score share one threshold, so their order cannot matter. A class that no clip has is NaN, not 0.
    Labels 0 or 1; scores any numbers, infinite ones too, NaN is an error.
    """
    tags = tag_scores(scores_NK, targets_NK)
    precision_K = np.full(tags.num_classes, np.nan)
    for index, (scores_N, has_N) in enumerate(zip(tags.scores_KN, tags.has_KN, strict=True)):
        if not has_N.any():
            continue
        thresholds_J = thresholds_of(scores_N, has_N)
        reached_N = num_reached(scores_N, thresholds_J)
        called_J = from_the_top(np.bincount(reached_N, minlength=len(thresholds_J) + 1)[1:])
        right_J = np.bincount(reached_N[has_N], minlength=len(thresholds_J) + 1)[1:]
        precision_K[index] = right_J @ (from_the_top(right_J) / called_J) / has_N.sum()
    return precision_K


def mean_average_precision(scores_NK: Any, targets_NK: Any) -> float:
    """mAP: the mean of `average_precision` over the classes that at least one clip has."""
    return float(np.nanmean(average_precision(scores_NK, targets_NK)))
