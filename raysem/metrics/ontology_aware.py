"""OmAP: mean average precision in which a false positive weighs more the farther it lies from what the clip has.

Liu et al., "Ontology-aware learning and evaluation for audio tagging", arXiv 2211.12195, as in the code of its authors
(haoheliu/ontology-aware-audio-tagging).
"""

# Shapes: N clips, K classes, L levels (0 to the longest distance), J distinct scores of the clips that have a class.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raysem.metrics.multi_label import TagScores, from_the_top, num_reached, tag_scores, thresholds_of
from raysem.metrics.ontology_distance import checked_distances, nearest_label_distance


@dataclass(frozen=True)
class TaggingPrecision:
    """Average precision of each class, plain and at each level; NaN for a class that no clip has."""

    plain_K: np.ndarray  # every false positive weighs 1
    level_LK: np.ndarray

    @property
    def mean_average_precision(self) -> float:
        """mAP over the classes that at least one clip has."""
        return float(np.nanmean(self.plain_K))

    @cached_property
    def by_level(self) -> np.ndarray:
        """OmAP_l. OmAP_0 is not mAP; the last one is 1 for any scores."""
        return np.nanmean(self.level_LK, axis=1)

    @property
    def ontology_aware(self) -> float:
        """OmAP, the mean over all levels."""
        return float(self.by_level.mean())

    @property
    def per_class(self) -> np.ndarray:
        """Each class's share in OmAP: its mean over the levels."""
        return self.level_LK.mean(axis=0)

    @property
    def num_absent(self) -> int:
        """Classes that no clip has; they are in no mean."""
        return int(np.isnan(self.plain_K).sum())


def ontology_aware_average_precision(scores_NK: Any, targets_NK: Any, distances_KK: Any) -> float:
    """OmAP, between 0 and 1.

    Its floor is far from 0 and depends on the number of clips and classes: random scores reach 0.315 on AudioSet's
    20,371 evaluation clips and 0.593 on 200 clips. Two numbers compare only on the same clips and classes; see
    `raysem.metrics.omap_bounds` for the floor and an interval.

    Args:
        scores_NK, targets_NK, distances_KK: as for `tagging_precision`.
    """
    return tagging_precision(scores_NK, targets_NK, distances_KK).ontology_aware


def tagging_precision(scores_NK: Any, targets_NK: Any, distances_KK: Any) -> TaggingPrecision:
    """Average precision by class and level, plain and ontology-aware, in one pass.

    With d_ic the distance of class c from the nearest label of clip i, and mu_l the off-diagonal mean of D * [D > l]
    (zeros included), a false positive weighs d_ic [d_ic > l] / mu_l at level l, and nothing where mu_l is 0; true
    positives weigh 1. There is a level for each whole distance from 0 to the longest: 22 for AudioSet's 527 classes.
    Exact: the false positives are counted in integers. A clip without labels is as far from every class as can be.

    Args:
        scores_NK: any numbers; the higher, the surer. Numpy or torch. NaN is an error.
        targets_NK: 0 or 1.
        distances_KK: edges between the classes, as `Ontology.distances.between` gives them.
    """
    tags = tag_scores(scores_NK, targets_NK)
    return LevelCounter(tags, distances_KK).precision()


class LevelCounter:
    """Counts, for each class and threshold, the clips at each distance; for all clips once or drawn several times."""

    def __init__(self, tags: TagScores, distances_KK: Any):
        distances_KK = checked_distances(distances_KK, tags.num_classes)
        if tags.num_classes < 2:
            raise ValueError("one class alone has no distances: OmAP needs two at least")
        self.tags = tags
        self.num_levels = int(distances_KK.max()) + 1
        self._inverse_mean_L = inverse_level_means(distances_KK)
        self._distance_KN = np.ascontiguousarray(nearest_label_distance(tags.has_KN.T, distances_KK).T)

    def precision(self) -> TaggingPrecision:
        """Every clip once."""
        return self.resampled(None)[0]

    def resampled(self, times_RN: np.ndarray | None) -> list[TaggingPrecision]:
        """One precision for each row of `times_RN`: how often each clip was drawn; None: every clip once.

        The distances and the means mu_l are those of the whole set of clips and classes.
        """
        num_draws = 1 if times_RN is None else len(times_RN)
        plain_RK = np.full((num_draws, self.tags.num_classes), np.nan)
        level_RLK = np.full((num_draws, self.num_levels, self.tags.num_classes), np.nan)
        for index, has_N in enumerate(self.tags.has_KN):
            if not has_N.any():
                continue
            thresholds_J = thresholds_of(self.tags.scores_KN[index], has_N)
            reached_N = num_reached(self.tags.scores_KN[index], thresholds_J)
            called = np.flatnonzero(reached_N)
            reached, right = reached_N[called] - 1, has_N[called]
            cell = reached * self.num_levels + self._distance_KN[index, called]
            for draw in range(num_draws):
                times = None if times_RN is None else times_RN[draw, called]
                right_J = _counts(reached[right], None if times is None else times[right], len(thresholds_J))
                if right_J.any():
                    at_JL = _counts(cell, times, len(thresholds_J) * self.num_levels)
                    plain_RK[draw, index], level_RLK[draw, :, index] = self._of_class(
                        right_J, at_JL.reshape(-1, self.num_levels)
                    )
        return [TaggingPrecision(plain_K, level_LK) for plain_K, level_LK in zip(plain_RK, level_RLK, strict=True)]

    def _of_class(self, right_J: np.ndarray, at_JL: np.ndarray) -> tuple[float, np.ndarray]:
        """Plain precision and that of each level; `at_JL` counts clips by threshold and distance."""
        kept = right_J > 0  # a threshold whose clips were not drawn is none
        called_JL, true_J = from_the_top(at_JL)[kept], from_the_top(right_J)[kept]
        share_J = right_J[kept] / right_J.sum()
        farther_JL = from_the_top((called_JL * np.arange(self.num_levels)).T).T  # sum over distances >= l
        wrong_JL = np.zeros(farther_JL.shape)
        wrong_JL[:, :-1] = farther_JL[:, 1:] * self._inverse_mean_L[:-1]
        return share_J @ (true_J / called_JL.sum(axis=1)), share_J @ (true_J[:, None] / (true_J[:, None] + wrong_JL))


def inverse_level_means(distances_KK: np.ndarray) -> np.ndarray:
    """1 / mu_l for each level; 0 where mu_l is 0 (the last level)."""
    num_classes, num_levels = len(distances_KK), int(distances_KK.max()) + 1
    pairs_L = np.bincount(distances_KK.ravel(), minlength=num_levels)  # the diagonal is at distance 0: adds nothing
    at_least_L = from_the_top(pairs_L * np.arange(num_levels))
    total_L = np.append(at_least_L[1:], 0)  # strictly farther than l
    return np.divide(num_classes * (num_classes - 1), total_L, out=np.zeros(num_levels), where=total_L > 0)


def _counts(cells: np.ndarray, times: np.ndarray | None, num_cells: int) -> np.ndarray:
    """How often each cell occurs, int64; `times` counts an element several times."""
    if times is None:
        return np.bincount(cells, minlength=num_cells)
    return np.bincount(cells, weights=times, minlength=num_cells).astype(np.int64)
