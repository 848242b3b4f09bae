"""Bootstrap intervals of a mean over clips, and of the difference of two models on the same clips.

The unit that is drawn again is the clip: an interval says what another test set of this size might have given.
With several seeds of training the seeds are drawn again too, as a second level crossed with the first (Owen, "The
pigeonhole bootstrap", 2007): every seed is tested on the same clips. With few seeds that level is too narrow, by a
factor of (S - 1) / S in its variance; three seeds show that seeds matter, they do not measure how much.
"""

# Shapes: S seeds, A values (one per clip or per query), G groups of values, R resamples.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK_CELLS = 4_000_000  # bounds the drawn indices in memory to 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval. All values alike give a width of zero: 20 of 20 right is not certainty."""

    estimate: float
    low: float
    high: float
    level: float

    def to_json(self) -> list[float]:
        """[low, high]"""
        return [self.low, self.high]


def bootstrap_interval(
    values_SA: np.ndarray,
    *,
    seed: int,
    groups_A: Sequence[int] | np.ndarray | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of the mean of `values_SA` (A,) or (S seeds, A).

    Args:
        groups_A: values of one group are drawn together: several captions of one clip are not independent.
    """
    values_SA = _checked_values(values_SA, "values")
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"num_resamples must be positive and level in (0, 1), got {num_resamples} and {level}")
    sums_SG, sizes_G = _by_group(values_SA, groups_A)
    num_seeds, num_groups = sums_SG.shape
    generator = np.random.default_rng(seed)
    means_R = np.empty(num_resamples)
    chunk = max(1, _CHUNK_CELLS // num_groups)
    for start in range(0, num_resamples, chunk):
        stop = min(start + chunk, num_resamples)
        drawn_RG = generator.integers(num_groups, size=(stop - start, num_groups))
        size_R = sizes_G[drawn_RG].sum(axis=1)
        if num_seeds == 1:
            means_R[start:stop] = sums_SG[0][drawn_RG].sum(axis=1) / size_R
            continue
        mean_SR = np.stack([sums_G[drawn_RG].sum(axis=1) / size_R for sums_G in sums_SG])
        seeds_SR = generator.integers(num_seeds, size=mean_SR.shape)
        means_R[start:stop] = np.take_along_axis(mean_SR, seeds_SR, axis=0).mean(axis=0)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values_SA.mean()), float(low), float(high), level)


def paired_difference_interval(
    model_SA: np.ndarray,
    baseline_SA: np.ndarray,
    *,
    seed: int,
    groups_A: Sequence[int] | np.ndarray | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of mean(model) - mean(baseline), both measured on the same clips in the same order.

    Far narrower than two separate intervals suggest, as clips that are hard for both cancel out. Row s of both is
    one seed (a student and the teacher or control it is compared with share their seed); a baseline with one row
    stands for every seed.
    """
    model_SA, baseline_SA = _checked_values(model_SA, "model"), _checked_values(baseline_SA, "baseline")
    if model_SA.shape[1] != baseline_SA.shape[1]:
        raise ValueError(
            f"a paired difference needs the same clips: model has {model_SA.shape[1]}, baseline {baseline_SA.shape[1]}"
        )
    if len(baseline_SA) not in (1, len(model_SA)):
        raise ValueError(
            f"seeds must pair up: model has {len(model_SA)}, baseline {len(baseline_SA)} (or one that stands for all)"
        )
    return bootstrap_interval(
        model_SA - baseline_SA, seed=seed, groups_A=groups_A, num_resamples=num_resamples, level=level
    )


def _checked_values(values_SA: np.ndarray, name: str) -> np.ndarray:
    values_SA = np.atleast_2d(np.asarray(values_SA, dtype=np.float64))
    if values_SA.ndim != 2 or values_SA.size == 0:
        raise ValueError(f"{name} must be (clips,) or (seeds, clips) and not empty, got shape {values_SA.shape}")
    if not np.isfinite(values_SA).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(values_SA)).sum())} values that are not finite")
    return values_SA


def _by_group(values_SA: np.ndarray, groups_A: Sequence[int] | np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if groups_A is None:
        return values_SA, np.ones(values_SA.shape[1])
    groups_A = np.asarray(groups_A)
    if groups_A.shape != (values_SA.shape[1],):
        raise ValueError(f"groups must be one per value ({values_SA.shape[1]}), got shape {groups_A.shape}")
    _, group_A = np.unique(groups_A, return_inverse=True)
    sizes_G = np.bincount(group_A).astype(np.float64)
    return np.stack([np.bincount(group_A, weights=values_A) for values_A in values_SA]), sizes_G
