"""Recall@k and mAP@k of a search, for queries with one or several right answers and scores that tie.

Tied answers stand in no order. Each number is its mean over all orders of the tied (for average precision the closed
form of McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of
tied scores", 2008): the result does not depend on the order of the gallery, and a collapsed model that scores every
answer alike gets what guessing would get.
"""

# Shapes: Q queries, G answers in the gallery, C cutoffs, P positions of a ranking.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK_CELLS = 4_000_000  # queries x answers looked at together: 32 MB for each array of a chunk


@dataclass(frozen=True)
class RetrievalScores:
    """One row or value per query, in the order of the queries."""

    cutoffs: tuple[int, ...]
    recall_QC: np.ndarray  # chance that one right answer at least is among the first k; 0 or 1 without ties
    average_precision_Q: np.ndarray  # at `precision_cutoff`
    precision_cutoff: int

    def recall(self, cutoff: int) -> float:
        """Mean recall@`cutoff`."""
        return float(self.recall_QC[:, self.cutoffs.index(cutoff)].mean())

    def mean_average_precision(self) -> float:
        """mAP@`precision_cutoff`."""
        return float(self.average_precision_Q.mean())


def retrieval_scores(
    similarity_QG: np.ndarray,
    relevant_QG: np.ndarray,
    *,
    cutoffs: Sequence[int] = (1, 5, 10),
    precision_cutoff: int = 10,
) -> RetrievalScores:
    """Scores of each query against a gallery; `relevant_QG` marks the right answers, one at least per query.

    Recall@k is the field's: 1 when any right answer is among the first k, whatever their number. Average precision
    at k is the sum of the precisions at the right answers within the first k, divided by min(k, number of right
    answers): a perfect ranking has 1. (LAION's CLAP code takes the first right answer only; for queries with one
    right answer both are 1 / rank.)
    """
    similarity_QG, relevant_QG = np.asarray(similarity_QG), np.asarray(relevant_QG, dtype=bool)
    if similarity_QG.ndim != 2 or similarity_QG.shape != relevant_QG.shape or similarity_QG.size == 0:
        raise ValueError(
            f"similarities and right answers must be (queries, gallery) alike and not empty, "
            f"got {similarity_QG.shape} and {relevant_QG.shape}"
        )
    if np.isnan(similarity_QG).any():
        raise ValueError(f"similarities hold {int(np.isnan(similarity_QG).sum())} NaN")
    without = np.flatnonzero(~relevant_QG.any(axis=1))
    if len(without):
        raise ValueError(f"{len(without)} queries have no right answer in the gallery, the first is query {without[0]}")
    if min(*cutoffs, precision_cutoff) < 1:
        raise ValueError(f"cutoffs start at 1, got {tuple(cutoffs)} and {precision_cutoff}")
    chunk = max(1, _CHUNK_CELLS // similarity_QG.shape[1])
    parts = [
        _score_chunk(similarity_QG[at : at + chunk], relevant_QG[at : at + chunk], tuple(cutoffs), precision_cutoff)
        for at in range(0, len(similarity_QG), chunk)
    ]
    recall_QC, average_precision_Q = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return RetrievalScores(tuple(cutoffs), recall_QC, average_precision_Q, precision_cutoff)


def _score_chunk(
    similarity_QG: np.ndarray, relevant_QG: np.ndarray, cutoffs: tuple[int, ...], precision_cutoff: int
) -> tuple[np.ndarray, np.ndarray]:
    best_right_Q = np.where(relevant_QG, similarity_QG, -np.inf).max(axis=1)
    above_Q = (similarity_QG > best_right_Q[:, None]).sum(axis=1)
    tied_QG = similarity_QG == best_right_Q[:, None]
    tied_Q, right_Q = tied_QG.sum(axis=1), (tied_QG & relevant_QG).sum(axis=1)
    recall_QC = np.stack([_chance_within(k - above_Q, tied_Q, right_Q) for k in cutoffs], axis=1)
    return recall_QC, _average_precision(similarity_QG, relevant_QG, precision_cutoff)


def _chance_within(places_Q: np.ndarray, tied_Q: np.ndarray, right_Q: np.ndarray) -> np.ndarray:
    """Chance that one of `right` among `tied` shuffled answers is in the first `places`: 1 - C(m - r, k) / C(m, k)."""
    places_Q = np.clip(places_Q, 0, tied_Q)
    missed_Q = np.ones(len(places_Q))
    for place in range(int(places_Q.max(initial=0))):
        wrong_left_Q = np.maximum(tied_Q - right_Q - place, 0)
        factor_Q = wrong_left_Q / np.maximum(tied_Q - place, 1)
        missed_Q = np.where(place < places_Q, missed_Q * factor_Q, missed_Q)
    return 1 - missed_Q


def _average_precision(similarity_QG: np.ndarray, relevant_QG: np.ndarray, cutoff: int) -> np.ndarray:
    num_positions = min(cutoff, similarity_QG.shape[1])
    best_QP = -np.sort(-np.partition(similarity_QG, -num_positions, axis=1)[:, -num_positions:], axis=1)
    total_Q = np.zeros(len(similarity_QG))
    for position in range(1, num_positions + 1):
        value_Q1 = best_QP[:, position - 1 : position]
        above_QG, tied_QG = similarity_QG > value_Q1, similarity_QG == value_Q1
        above_Q, tied_Q = above_QG.sum(axis=1), tied_QG.sum(axis=1)
        right_above_Q, right_Q = (above_QG & relevant_QG).sum(axis=1), (tied_QG & relevant_QG).sum(axis=1)
        # Given a right answer here, the other right ones of its tie lie evenly on the tie's other places.
        right_before_Q = (position - 1 - above_Q) * (right_Q - 1) / np.maximum(tied_Q - 1, 1)
        precision_Q = (right_above_Q + 1 + right_before_Q) / position
        total_Q += right_Q / tied_Q * precision_Q
    return total_Q / np.minimum(relevant_QG.sum(axis=1), cutoff)
