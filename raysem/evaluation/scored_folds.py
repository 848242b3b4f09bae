"""What k models say of the folds that they never saw, checked and joined."""

# Shapes: A clips (of one fold, or of all where they are pooled), K classes.

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysem.metrics.accuracy import top1_correct

# Half precision sums 50 shares to 1 within a hundredth.
_SUM_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class ScoredFold:
    """The clips of one test fold with the probabilities that a model trained without them gave."""

    clip_ids: list[str]
    target_A: np.ndarray  # int, class of each clip
    scores_AK: np.ndarray  # probabilities: 0 to 1, a row sums to 1
    num_unscored: int = 0  # clips of the fold that gave no scores; they are in none of the arrays


@dataclass(frozen=True, eq=False)
class PooledFolds:
    """The clips of all folds, fold after fold by number."""

    clip_ids: list[str]
    fold_A: np.ndarray
    target_A: np.ndarray
    scores_AK: np.ndarray

    def sorted(self) -> PooledFolds:
        """By fold and clip_id, so that models pair up whatever order they were scored in."""
        order = sorted(range(len(self.clip_ids)), key=lambda row: (self.fold_A[row], self.clip_ids[row]))
        return PooledFolds(
            [self.clip_ids[row] for row in order], self.fold_A[order], self.target_A[order], self.scores_AK[order]
        )


def pooled_folds(folds: Mapping[int, ScoredFold], model: str = "") -> PooledFolds:
    """Checked and joined; messages name the fold, and `model` where there are several.

    Raises:
        ValueError: no fold, a fold without clips, shapes that do not fit, a target that is no class, a clip that is
            tested twice, or scores that are no probabilities.
    """
    where = f"{model}: " if model else ""
    if not folds:
        raise ValueError(f"{where}no fold was scored")
    ordered = sorted(folds.items())
    for fold, one in ordered:
        try:
            _check_fold(one)
        except ValueError as error:
            raise ValueError(f"{where}fold {fold}: {error}") from error
    widths = {np.asarray(one.scores_AK).shape[1] for _, one in ordered}
    if len(widths) > 1:
        raise ValueError(f"{where}the folds have scores of {sorted(widths)} classes, not of the same")
    clip_ids = [clip_id for _, one in ordered for clip_id in one.clip_ids]
    twice = [clip_id for clip_id, count in Counter(clip_ids).items() if count > 1]
    if twice:
        raise ValueError(f"{where}{len(twice)} clips are tested twice, the first is {twice[0]!r}")
    return PooledFolds(
        clip_ids,
        np.repeat([fold for fold, _ in ordered], [len(one.clip_ids) for _, one in ordered]),
        np.concatenate([np.asarray(one.target_A) for _, one in ordered]),
        np.concatenate([np.asarray(one.scores_AK) for _, one in ordered]),
    )


def _check_fold(one: ScoredFold) -> None:
    scores_AK = np.asarray(one.scores_AK)
    if not one.clip_ids:
        raise ValueError(f"no clip was scored ({one.num_unscored} gave no scores)")
    if one.num_unscored < 0:
        raise ValueError(f"num_unscored is a count, got {one.num_unscored}")
    if scores_AK.ndim != 2 or len(scores_AK) != len(one.clip_ids):
        raise ValueError(f"scores must be ({len(one.clip_ids)} clips, classes), got shape {scores_AK.shape}")
    top1_correct(scores_AK, one.target_A)  # its checks of NaN and of targets
    off_A = np.abs(scores_AK.sum(axis=1, dtype=np.float64) - 1) > _SUM_TOLERANCE
    off_A |= (scores_AK < 0).any(axis=1)
    if off_A.any():
        raise ValueError(
            f"scores must be probabilities: {int(off_A.sum())} rows hold a negative one or do not sum to 1, "
            f"the first is clip {one.clip_ids[int(off_A.argmax())]!r}"
        )


def check_labels(labels: Sequence[str]) -> None:
    """A ValueError where two classes have one label."""
    duplicated = sorted({label for label in labels if list(labels).count(label) > 1})
    if duplicated:
        raise ValueError(f"labels are listed twice: {duplicated}")
