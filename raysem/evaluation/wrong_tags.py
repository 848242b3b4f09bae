"""What a model calls a clip, and how far in the ontology its wrong tags lie from what the clip has."""

# Shapes: N clips, K classes, P wrong tags of all clips together, Q pairs of a wrong tag and a label nearest to it.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysem.metrics.multi_label import as_numpy, tag_scores
from raysem.metrics.ontology_distance import checked_distances, nearest_label_distance


@dataclass(frozen=True)
class WrongTags:
    """The false positives of `raysem.metrics.ontology_distance.false_positive_distance`, one by one.

    A clip with r labels is given its r best-scored classes (of equal scores the first class), so no threshold and no
    calibration of the scores is in it; those that it has not are wrong. Clip by clip, best-scored first.
    """

    clip_P: np.ndarray
    class_P: np.ndarray
    distance_P: np.ndarray  # int64, edges to the nearest label of the clip
    tag_Q: np.ndarray  # row of the wrong tag, ascending; once for each label of its clip at that distance
    label_Q: np.ndarray  # class of that label
    num_clips: int
    num_classes: int
    longest: int  # distance between any two classes

    @property
    def mean_distance(self) -> float:
        """NaN when there is no wrong tag."""
        return float(self.distance_P.mean()) if len(self.distance_P) else float("nan")

    @property
    def by_distance(self) -> np.ndarray:
        """How many wrong tags lie at each distance from 0 to the longest."""
        return np.bincount(self.distance_P, minlength=self.longest + 1)

    @property
    def shares(self) -> np.ndarray:
        """A wrong tag is a mistake about the label nearest to it: 1, or 1 / m where m labels are as near.

        In a clip of speech and a dog the tag "Cat" is a mistake about the dog.
        """
        return (1 / np.bincount(self.tag_Q, minlength=len(self.clip_P)))[self.tag_Q]


@dataclass(frozen=True)
class RankedTag:
    """One of the best-scored classes of a clip; `nearest` is the label that lies nearest to it."""

    name: str
    score: float
    distance: int | None  # 0: right; None: the clip has no label
    nearest: str | None


def wrong_tags(scores_NK: Any, targets_NK: Any, distances_KK: Any) -> WrongTags:
    """The wrong tags of all clips; clips without labels are given none."""
    has_NK = tag_scores(scores_NK, targets_NK).has_KN.T
    distances_KK = checked_distances(distances_KK, has_NK.shape[1])
    num_labels_N = has_NK.sum(axis=1)
    order_NK = np.argsort(-as_numpy(scores_NK).astype(np.float64), axis=1, kind="stable")
    given_NK = order_NK[:, : num_labels_N.max()]
    is_given_NK = np.arange(given_NK.shape[1])[None] < num_labels_N[:, None]
    clip_P, place_P = np.nonzero(is_given_NK & ~np.take_along_axis(has_NK, given_NK, axis=1))
    class_P = given_NK[clip_P, place_P]
    distance_P = nearest_label_distance(has_NK, distances_KK)[clip_P, class_P]
    tag_Q, label_Q = np.nonzero(has_NK[clip_P] & (distances_KK[class_P] == distance_P[:, None]))
    return WrongTags(
        clip_P,
        class_P,
        distance_P.astype(np.int64),
        tag_Q,
        label_Q,
        num_clips=len(has_NK),
        num_classes=has_NK.shape[1],
        longest=int(distances_KK.max()),
    )


def top_tags(
    scores_K: Any, has_K: Any, distances_KK: np.ndarray, class_names: Sequence[str], *, count: int
) -> list[RankedTag]:
    """The `count` best-scored classes of one clip, best first (of equal scores the first class)."""
    scores_K, has_K = as_numpy(scores_K), as_numpy(has_K).astype(bool)
    if not len(scores_K) == len(has_K) == len(class_names):
        raise ValueError(
            f"one score and one label for each of {len(class_names)} classes, got {len(scores_K)} and {len(has_K)}"
        )
    labels = np.flatnonzero(has_K)
    ranked = []
    for index in np.argsort(-scores_K.astype(np.float64), kind="stable")[:count]:
        nearest = labels[distances_KK[index, labels].argmin()] if len(labels) else None
        ranked.append(
            RankedTag(
                name=class_names[index],
                score=float(scores_K[index]),
                distance=None if nearest is None else int(distances_KK[index, nearest]),
                nearest=None if nearest is None else class_names[nearest],
            )
        )
    return ranked
