"""What every metric of tagging reads: the scores of all clips, and which classes each clip has."""

# Shapes: N clips, K classes, J distinct scores of the clips that have a class, in ascending order.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TagScores:
    """Scores and labels by class; `scores_KN` keeps the precision it came in, a comparison needs no more."""

    scores_KN: np.ndarray
    has_KN: np.ndarray  # bool

    @property
    def num_classes(self) -> int:
        """K"""
        return len(self.scores_KN)

    @property
    def num_clips(self) -> int:
        """N"""
        return self.scores_KN.shape[1]


def tag_scores(scores_NK: Any, targets_NK: Any) -> TagScores:
    """Checked scores and labels, numpy or torch, turned so that a class is contiguous.

    Raises:
        ValueError: shapes that do not fit, scores that are NaN, targets other than 0 and 1, no clip, no label at all.
    """
    scores_NK, targets_NK = as_numpy(scores_NK), as_numpy(targets_NK)
    if scores_NK.ndim != 2 or scores_NK.shape != targets_NK.shape or scores_NK.size == 0:
        raise ValueError(
            f"scores and targets must be (clips, classes) alike and not empty, got {scores_NK.shape} and "
            f"{targets_NK.shape}"
        )
    num_nan = int(np.isnan(scores_NK).sum())
    if num_nan:
        clips = np.isnan(scores_NK).any(axis=1)
        raise ValueError(
            f"scores hold {num_nan} NaN in {int(clips.sum())} clips, the first is clip {int(clips.argmax())}; a clip "
            "that failed is a reject, not a score"
        )
    has_NK = targets_NK == 1
    if not np.array_equal(has_NK, targets_NK != 0):
        odd = targets_NK[has_NK != (targets_NK != 0)][0]
        raise ValueError(f"targets must be 0 or 1, found {odd}; soft labels are for training")
    if not has_NK.any():
        raise ValueError("no clip has a label: there is nothing to measure")
    return TagScores(np.ascontiguousarray(scores_NK.T), np.ascontiguousarray(has_NK.T))


def as_numpy(values: Any) -> np.ndarray:
    """An array of a numpy array, a list or a torch tensor, wherever that lies."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):
            values = values.float()  # numpy has no bfloat16
    return np.asarray(values)


def thresholds_of(scores_N: np.ndarray, has_N: np.ndarray) -> np.ndarray:
    """Distinct scores of the clips that have the class, ascending: recall changes nowhere else."""
    return np.unique(scores_N[has_N])


def num_reached(scores_N: np.ndarray, thresholds_J: np.ndarray) -> np.ndarray:
    """For each clip, how many of the thresholds its score reaches (0..J): the clips with a count above j are those
    that are called positive at threshold j."""
    reached_N = np.zeros(len(scores_N), dtype=np.int64)
    some = np.flatnonzero(scores_N >= thresholds_J[0])  # most clips are below every positive of a good model
    reached_N[some] = np.searchsorted(thresholds_J, scores_N[some], side="right")
    return reached_N


def from_the_top(counts_J: np.ndarray) -> np.ndarray:
    """Sums over j' >= j along the first axis: what is called positive at threshold j."""
    return counts_J[::-1].cumsum(axis=0)[::-1]
