"""Counts over scored pairs and over Improvement-Sets: similarities, what a threshold keeps, precision against labels.

Everything is added up shard by shard, in any order.
"""

# Shapes: P pairs, E lower edges of the bins of a histogram.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysem.curation.hubness import skewness

BINS_PER_UNIT = 1000
EDGES_E = np.array([round(-1 + step / BINS_PER_UNIT, 3) for step in range(2 * BINS_PER_UNIT + 1)], np.float32)
"""Bins of 0.001 from -1 to 1; a threshold with at most three decimals is an edge, and counts there are exact."""


@dataclass(frozen=True)
class SimilarityHistogram:
    """Numbers of pairs per similarity, in bins with ascending float32 lower edges; a value past an end counts to it."""

    edges_E: np.ndarray
    counts_E: np.ndarray

    @classmethod
    def of(cls, similarity_P: np.ndarray, edges_E: np.ndarray = EDGES_E) -> SimilarityHistogram:
        """Compared as float32, as selection does: a pair at an edge lies above it."""
        similarity_P = np.asarray(similarity_P, np.float32)
        if np.isnan(similarity_P).any():
            raise ValueError(f"similarity {int(np.isnan(similarity_P).argmax())} is NaN")
        bins_P = np.clip(np.searchsorted(edges_E, similarity_P, side="right") - 1, 0, len(edges_E) - 1)
        return cls(edges_E, np.bincount(bins_P, minlength=len(edges_E)).astype(np.int64))

    def merge(self, other: SimilarityHistogram) -> SimilarityHistogram:
        if not np.array_equal(self.edges_E, other.edges_E):
            raise ValueError("histograms with other edges cannot be added")
        return SimilarityHistogram(self.edges_E, self.counts_E + other.counts_E)

    def __len__(self) -> int:
        return int(self.counts_E.sum())

    def num_above(self) -> np.ndarray:
        """int64 (E,): pairs with a similarity of at least each edge."""
        return self.counts_E[::-1].cumsum()[::-1]


class PairCounts:
    """The scored pairs of all shards against any threshold: how many, of how many clips, and how many are right."""

    def __init__(self, floor: float, num_bins: int):
        """`num_bins` equal bins from `floor`, below which no pair was stored, to 1."""
        self._edges_E = np.linspace(floor, 1.0, num_bins + 1).astype(np.float32)
        nothing = SimilarityHistogram.of(np.zeros(0), self._edges_E[:-1])
        self._pairs = self._clips = self._judged = self._right = nothing

    def add(self, similarity_P: np.ndarray, nearest_P: np.ndarray, known_P: np.ndarray, right_P: np.ndarray) -> None:
        """Count a shard's pairs.

        Args:
            nearest_P: the one pair of each clip with its highest similarity.
            known_P, right_P: pairs that labels can judge, and those which they agree to.
        """
        counted = [
            SimilarityHistogram.of(part, self._edges_E[:-1])
            for part in (similarity_P, similarity_P[nearest_P], similarity_P[known_P], similarity_P[known_P & right_P])
        ]
        self._pairs, self._clips = self._pairs.merge(counted[0]), self._clips.merge(counted[1])
        self._judged, self._right = self._judged.merge(counted[2]), self._right.merge(counted[3])

    @property
    def num_pairs(self) -> int:
        return len(self._pairs)

    @property
    def num_judged(self) -> int:
        return len(self._judged)

    def to_json(self) -> dict[str, Any]:
        """What `SimilarityStatistics` of a report reads; the sweep's thresholds are the lower edges of the bins."""
        edges = [round(edge, 6) for edge in self._edges_E.tolist()]
        judged, right = self._judged.num_above().tolist(), self._right.num_above().tolist()
        precision = [r / j if j else None for r, j in zip(right, judged, strict=True)]
        return {
            "bin_edges": edges,
            "bin_counts": self._pairs.counts_E.tolist(),
            "sweep_thresholds": edges[:-1],
            "kept_pairs": self._pairs.num_above().tolist(),
            "kept_clips": self._clips.num_above().tolist(),
            "precision": precision if self.num_judged else None,
        }


@dataclass
class ImprovementSetCounts:
    """One Improvement-Set in numbers. Clips and captions that it does not hold count nowhere, also not in the skew."""

    captions_per_clip: Counter[int] = field(default_factory=Counter)
    """How many clips have so many captions."""
    clips_of_caption: Counter[str] = field(default_factory=Counter)
    num_judged: int = 0
    num_right: int = 0

    def add(self, caption_ids: Sequence[str], verdicts: Iterable[bool | None]) -> None:
        """Count a clip: its captions, and for each whether labels say it is right (None: they do not know)."""
        self.captions_per_clip[len(caption_ids)] += 1
        self.clips_of_caption.update(caption_ids)
        for verdict in verdicts:
            self.num_judged += verdict is not None
            self.num_right += bool(verdict)

    def to_json(self, text_of: Mapping[str, str], *, num_frequent: int = 10) -> dict[str, Any]:
        """What `ImprovementSetStatistics` of a report reads, but for the set's name and rule."""
        clips_per_caption = Counter(self.clips_of_caption.values())
        return {
            "num_clips": sum(self.captions_per_clip.values()),
            "num_pairs": sum(self.clips_of_caption.values()),
            "num_captions": len(self.clips_of_caption),
            "captions_per_clip": {str(size): count for size, count in sorted(self.captions_per_clip.items())},
            "clips_per_caption": {str(size): count for size, count in sorted(clips_per_caption.items())},
            "captions_per_clip_skewness": _skewness(self.captions_per_clip),
            "clips_per_caption_skewness": _skewness(clips_per_caption),
            "precision": self.num_right / self.num_judged if self.num_judged else None,
            "pairs_judged": self.num_judged,
            "frequent_captions": [
                [text_of[key], count] for key, count in self.clips_of_caption.most_common(num_frequent)
            ],
        }


def quantile_similarity(shards: Callable[[], Iterable[np.ndarray]], share: float) -> float:
    """The similarity at or above which lies the most similar `share` of all pairs: exact, in two passes.

    That is the n-th highest value with n = ceil(share x pairs); pairs equal to it are all kept. The first pass counts
    bins, the second sorts one bin, so memory holds no more than a bin's values and a shard.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share}: above 0, at most 1")
    histogram = SimilarityHistogram.of(np.zeros(0))
    for similarity_P in shards():
        histogram = histogram.merge(SimilarityHistogram.of(similarity_P))
    if not len(histogram):
        raise ValueError("no pairs to take a quantile of")
    wanted = int(np.ceil(share * len(histogram) - 1e-9))
    above_E = histogram.num_above()
    at = int(np.flatnonzero(above_E >= wanted)[-1])
    higher = int(above_E[at] - histogram.counts_E[at])
    low = EDGES_E[at] if at else -np.inf
    high = EDGES_E[at + 1] if at + 1 < len(EDGES_E) else np.inf
    bins = [part[(part >= low) & (part < high)] for part in (np.asarray(s, np.float32) for s in shards())]
    return float(np.sort(np.concatenate(bins))[::-1][wanted - higher - 1])


def _skewness(counts: Mapping[int, int]) -> float | None:
    """Skewness of a distribution given as value -> how often; None of fewer than three values."""
    values = np.repeat(np.array(sorted(counts), np.int64), [counts[value] for value in sorted(counts)])
    return skewness(values) if len(values) >= 3 else None
