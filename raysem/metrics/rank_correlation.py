"""Spearman's rank correlation, and of two square matrices over the same classes."""

# Shapes: P values, K classes.

from __future__ import annotations

from typing import Any

import numpy as np

from raysem.metrics.multi_label import as_numpy


def rank_correlation(one_P: Any, other_P: Any) -> float:
    """Spearman's rho: Pearson's correlation of the ranks, equal values sharing their mean rank.

    NaN when all values of one side are equal.
    """
    one_P, other_P = as_numpy(one_P), as_numpy(other_P)
    if one_P.ndim != 1 or one_P.shape != other_P.shape or len(one_P) < 2:
        raise ValueError(f"expected two rows of the same length, 2 at least, got {one_P.shape} and {other_P.shape}")
    if not (np.isfinite(one_P).all() and np.isfinite(other_P).all()):
        raise ValueError("values must be finite")
    first_P, second_P = (ranks_P - ranks_P.mean() for ranks_P in (mean_ranks(one_P), mean_ranks(other_P)))
    scale = np.sqrt((first_P @ first_P) * (second_P @ second_P))
    return float(first_P @ second_P / scale) if scale > 0 else float("nan")


def mean_ranks(values_P: np.ndarray) -> np.ndarray:
    """Ranks from 1, ascending; equal values have the mean of their places."""
    _, place_P, count_U = np.unique(values_P, return_inverse=True, return_counts=True)
    last_U = count_U.cumsum()
    return (last_U - (count_U - 1) / 2)[place_P]


def pair_rank_correlation(similarity_KK: Any, distances_KK: Any) -> float:
    """Rank correlation of two symmetric matrices over pairs of different classes; each pair counts once.

    Of a text table's similarities with the ontology's distances it is negative where related classes have similar
    texts. The pairs are not independent (527 classes make 138,601 pairs): no test for so many values applies.
    """
    similarity_KK, distances_KK = as_numpy(similarity_KK), as_numpy(distances_KK)
    if similarity_KK.ndim != 2 or similarity_KK.shape != distances_KK.shape or len(set(similarity_KK.shape)) != 1:
        raise ValueError(f"expected two square matrices alike, got {similarity_KK.shape} and {distances_KK.shape}")
    upper = np.triu_indices(len(similarity_KK), k=1)
    return rank_correlation(similarity_KK[upper], distances_KK[upper])
