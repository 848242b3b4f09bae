"""The clips behind a model's most confused pairs of classes: what a report plays."""

# Shapes: A clips, K classes.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysem.evaluation.scored_folds import ScoredFold, check_labels, pooled_folds
from raysem.metrics.accuracy import Confusion, confusion_matrix, most_confused, top1_shares


@dataclass(frozen=True)
class ConfusedClip:
    """A clip that was called another class, with the probabilities of its own class and of that other."""

    clip_id: str
    fold: int
    label_probability: float
    predicted_probability: float


@dataclass(frozen=True)
class ConfusedPair:
    """A pair of classes with clips of the one that were called the other, the surest mistake first."""

    confusion: Confusion
    clips: tuple[ConfusedClip, ...]


def confused_clips(
    folds: Mapping[int, ScoredFold], labels: Sequence[str], *, num_pairs: int, clips_per_pair: int
) -> list[ConfusedPair]:
    """The most confused pairs of one model, as in its result, each with the clips to listen to.

    Surest first: by how far the probability of the wrong class stands above that of the right one, then by clip_id. A
    clip whose best classes tie is a mistake of each wrong one among them.
    """
    check_labels(labels)
    pooled = pooled_folds(folds)
    place = {label: index for index, label in enumerate(labels)}
    vote_AK = top1_shares(pooled.scores_AK)
    pairs = []
    for confusion in most_confused(confusion_matrix(pooled.scores_AK, pooled.target_A), labels, count=num_pairs):
        label, predicted = place[confusion.label], place[confusion.predicted]
        clips = [
            ConfusedClip(
                pooled.clip_ids[row],
                int(pooled.fold_A[row]),
                label_probability=float(pooled.scores_AK[row, label]),
                predicted_probability=float(pooled.scores_AK[row, predicted]),
            )
            for row in np.flatnonzero((pooled.target_A == label) & (vote_AK[:, predicted] > 0)).tolist()
        ]
        clips.sort(key=lambda clip: (clip.label_probability - clip.predicted_probability, clip.clip_id))
        pairs.append(ConfusedPair(confusion, tuple(clips[:clips_per_pair])))
    return pairs
