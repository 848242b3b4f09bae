"""How far in the ontology a class lies from what a clip has."""

# Shapes: N clips, K classes, P labels of all clips together.

from __future__ import annotations

from typing import Any

import numpy as np

from raysem.metrics.multi_label import as_numpy

_LABELS_AT_ONCE = 100_000


def checked_distances(distances_KK: Any, num_classes: int) -> np.ndarray:
    """distance_KK in the smallest unsigned integers; edges between the classes.

    Raises:
        ValueError: not (K, K), not whole numbers from 0, not symmetric, a diagonal other than 0.
    """
    distances_KK = as_numpy(distances_KK)
    if distances_KK.shape != (num_classes, num_classes):
        raise ValueError(
            f"distances must be ({num_classes}, {num_classes}) for these classes, got {distances_KK.shape}"
        )
    if not np.isfinite(distances_KK).all() or (distances_KK < 0).any() or (distances_KK != np.rint(distances_KK)).any():
        raise ValueError("distances must be whole numbers from 0: the edges between two classes")
    if distances_KK.diagonal().any() or not np.array_equal(distances_KK, distances_KK.T):
        raise ValueError("distances must be symmetric, and 0 from a class to itself")
    return distances_KK.astype(np.min_scalar_type(int(distances_KK.max())))


def nearest_label_distance(has_NK: np.ndarray, distances_KK: np.ndarray) -> np.ndarray:
    """distance_NK: edges from each class to the nearest class that the clip has, 0 for those that it has.

    For a clip without labels nothing is near: every class is as far as any two classes are. (Our reading; the
    published code cannot score such a clip.)
    """
    nearest_NK = np.full(has_NK.shape, distances_KK.max(), dtype=distances_KK.dtype)
    clip_P, class_P = np.nonzero(has_NK)
    labelled, first = np.unique(clip_P, return_index=True)
    stops = [*first[1:], len(class_P)]
    begin = 0
    while begin < len(labelled):
        end = max(begin + 1, int(np.searchsorted(stops, first[begin] + _LABELS_AT_ONCE, side="right")))
        rows = distances_KK[class_P[first[begin] : stops[end - 1]]]
        nearest_NK[labelled[begin:end]] = np.minimum.reduceat(rows, first[begin:end] - first[begin], axis=0)
        begin = end
    return nearest_NK


def false_positive_distance(scores_NK: Any, targets_NK: Any, distances_KK: Any) -> float:
    """Mean distance of wrong tags from the nearest right one, where each clip is given as many tags as it has labels.

    The smaller, the closer the mistakes. A clip's tags are its best scores (of equal ones the first class); clips
    without labels give none. NaN when there is no mistake. Ours: the paper says only that mistakes move closer.
    """
    scores_NK, has_NK = as_numpy(scores_NK), as_numpy(targets_NK).astype(bool)
    if scores_NK.ndim != 2 or scores_NK.shape != has_NK.shape:
        raise ValueError(f"scores and targets must be (clips, classes) alike, got {scores_NK.shape} and {has_NK.shape}")
    if np.isnan(scores_NK).any():
        raise ValueError(f"scores hold {int(np.isnan(scores_NK).sum())} NaN")
    distances_KK = checked_distances(distances_KK, scores_NK.shape[1])
    rank_NK = np.empty(scores_NK.shape, dtype=np.int64)
    order_NK = np.argsort(-scores_NK.astype(np.float64), axis=1, kind="stable")
    np.put_along_axis(rank_NK, order_NK, np.arange(scores_NK.shape[1])[None], axis=1)
    wrong_NK = (rank_NK < has_NK.sum(axis=1, keepdims=True)) & ~has_NK
    if not wrong_NK.any():
        return float("nan")
    return float(nearest_label_distance(has_NK, distances_KK)[wrong_NK].mean())
