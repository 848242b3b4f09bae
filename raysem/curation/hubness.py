"""Hubness: a few captions that are near everything. Its measure, and scores that correct for it."""

# Shapes: Q queries, G gallery items (what is ranked), B queries of the bank, K neighbours of each query.

from __future__ import annotations

import numpy as np


def k_occurrence(neighbour_QK: np.ndarray, num_items: int) -> np.ndarray:
    """How many queries have each item among their K nearest; int64 (num_items,). -1 stands for no neighbour."""
    index = np.asarray(neighbour_QK).ravel()
    index = index[index >= 0]
    if len(index) and index.max() >= num_items:
        raise ValueError(f"neighbour {index.max()} among {num_items} items")
    return np.bincount(index, minlength=num_items).astype(np.int64)


def skewness(counts: np.ndarray) -> float:
    """Third standardised moment, the measure of hubness of Radovanovic et al. 2010 (JMLR 11); 0 if all are equal.

    Of k-occurrences: about 0 without hubs, above 1 with some, tens when a few items own most neighbour lists.
    """
    values = np.asarray(counts, np.float64)
    if not len(values):
        return 0.0
    centred = values - values.mean()
    deviation = np.sqrt(np.mean(centred**2))
    return float(np.mean(centred**3) / deviation**3) if deviation > 0 else 0.0


def csls(similarity_QG: np.ndarray, query_mean_Q: np.ndarray, gallery_mean_G: np.ndarray) -> np.ndarray:
    """2 s - r_query - r_gallery (Conneau et al. 2018, arXiv 1710.04087); r: mean cosine to the k nearest across."""
    expected = (len(query_mean_Q), len(gallery_mean_G))
    if similarity_QG.shape != expected:
        raise ValueError(f"similarities {similarity_QG.shape} and means for {expected}")
    return 2 * similarity_QG - np.asarray(query_mean_Q)[:, None] - np.asarray(gallery_mean_G)[None, :]


def inverted_softmax(similarity_QG: np.ndarray, bank_BG: np.ndarray, *, beta: float = 20.0) -> np.ndarray:
    """log of exp(beta s_qg) / sum_b exp(beta s_bg): an item near every query of the bank loses (Smith et al. 2017).

    Each row orders the gallery; rows are not to be compared with each other. Sums in float64.
    """
    if similarity_QG.shape[1:] != bank_BG.shape[1:] or not len(bank_BG):
        raise ValueError(f"one gallery for both, got similarities {similarity_QG.shape} and bank {bank_BG.shape}")
    return beta * np.asarray(similarity_QG, np.float64) - _log_sum_exp(beta * np.asarray(bank_BG, np.float64))


def querybank_norm(
    similarity_QG: np.ndarray, bank_BG: np.ndarray, *, beta: float = 20.0, activation_k: int = 1
) -> np.ndarray:
    """QB-Norm's dynamic inverted softmax (Bogolin et al. 2022, arXiv 2112.12777), as an order for each row.

    Only queries whose nearest item is a hub of the bank (among the `activation_k` nearest of some bank query) are
    normalised; the others keep their similarities, so a row is in one scale or the other.
    """
    k = min(activation_k, bank_BG.shape[1])
    active_G = k_occurrence(np.argpartition(-bank_BG, k - 1, axis=1)[:, :k], bank_BG.shape[1]) > 0
    normalised_Q = active_G[similarity_QG.argmax(axis=1)]
    return np.where(normalised_Q[:, None], inverted_softmax(similarity_QG, bank_BG, beta=beta), similarity_QG)


def _log_sum_exp(values_BG: np.ndarray) -> np.ndarray:
    highest_G = values_BG.max(axis=0)
    return highest_G + np.log(np.exp(values_BG - highest_G).sum(axis=0))
