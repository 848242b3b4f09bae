"""Top-1 accuracy, per class and over all clips, and what is taken for what."""

# Shapes: A clips, K classes.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """Two classes that are taken for one another: `num_clips` clips of `label` were called `predicted`."""

    label: str
    predicted: str
    num_clips: float
    share: float  # of the clips of `label`


def top1_shares(scores_AK: np.ndarray) -> np.ndarray:
    """Each clip's vote (A, K): 1 for its best class; m classes that tie for the best get 1 / m each.

    The mean over a random choice among the tied, so a model that gives every class the same score is at chance and
    not at the share of whichever class comes first.

    Raises:
        ValueError: a score is NaN (an infinite score is a score).
    """
    scores_AK = np.asarray(scores_AK)
    if scores_AK.ndim != 2 or scores_AK.shape[1] == 0:
        raise ValueError(f"scores must be (clips, classes), got shape {scores_AK.shape}")
    if np.isnan(scores_AK).any():
        raise ValueError(f"scores hold {int(np.isnan(scores_AK).sum())} NaN; a failed clip is a reject, not a score")
    best_AK = scores_AK == scores_AK.max(axis=1, keepdims=True)
    return best_AK / best_AK.sum(axis=1, keepdims=True)


def top1_correct(scores_AK: np.ndarray, target_A: np.ndarray) -> np.ndarray:
    """1 for each clip whose class scores best, 0 otherwise, 1 / m where m classes tie for the best; float64 (A,)."""
    shares_AK = top1_shares(scores_AK)
    target_A = _checked_targets(target_A, *shares_AK.shape)
    return shares_AK[np.arange(len(target_A)), target_A]


def confusion_matrix(scores_AK: np.ndarray, target_A: np.ndarray) -> np.ndarray:
    """Counts (K true, K predicted); a row sums to the clips of its class, and ties share their clip.

    The trace divided by the sum is the accuracy, always.
    """
    shares_AK = top1_shares(scores_AK)
    target_A = _checked_targets(target_A, *shares_AK.shape)
    confusion_KK = np.zeros((shares_AK.shape[1],) * 2)
    np.add.at(confusion_KK, target_A, shares_AK)
    return confusion_KK


def per_class_accuracy(confusion_KK: np.ndarray) -> np.ndarray:
    """Recall of each class (K,); NaN for a class without clips, which is not an accuracy of 0."""
    totals_K = confusion_KK.sum(axis=1)
    return np.divide(np.diag(confusion_KK), totals_K, out=np.full(len(totals_K), np.nan), where=totals_K > 0)


def most_confused(confusion_KK: np.ndarray, labels: Sequence[str], *, count: int) -> list[Confusion]:
    """The `count` largest cells off the diagonal, largest first, then in the order of the labels."""
    if confusion_KK.shape != (len(labels),) * 2:
        raise ValueError(f"confusion is {confusion_KK.shape}, there are {len(labels)} labels")
    errors_KK = confusion_KK * (1 - np.eye(len(labels)))
    totals_K = confusion_KK.sum(axis=1)
    cells = np.argsort(-errors_KK, axis=None, kind="stable")[:count]
    pairs = [divmod(int(cell), len(labels)) for cell in cells]
    return [
        Confusion(
            labels[true],
            labels[predicted],
            float(errors_KK[true, predicted]),
            float(errors_KK[true, predicted] / totals_K[true]),
        )
        for true, predicted in pairs
        if errors_KK[true, predicted] > 0
    ]


def _checked_targets(target_A: np.ndarray, num_clips: int, num_classes: int) -> np.ndarray:
    target_A = np.asarray(target_A)
    if target_A.shape != (num_clips,):
        raise ValueError(f"targets must be one class per clip ({num_clips}), got shape {target_A.shape}")
    if not np.issubdtype(target_A.dtype, np.integer):
        raise ValueError(f"targets must be class indices, got {target_A.dtype}")
    if num_clips and not (target_A.min() >= 0 and target_A.max() < num_classes):
        raise ValueError(f"targets go from {target_A.min()} to {target_A.max()}, there are {num_classes} classes")
    return target_A
