"""Counts over scored pairs: similarities, keep-rate, captions per clip, clips per caption, precision against labels.

Everything can be merged: the statistics of all shards are the sum of each shard's, in any order.
"""

# Shapes: P pairs, E edges of the histogram.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysem.curation.hubness import skewness

BINS_PER_UNIT = 1000
EDGES_E = np.array([round(-1 + step / BINS_PER_UNIT, 3) for step in range(2 * BINS_PER_UNIT + 1)], np.float32)
"""Lower edges of the bins; a threshold with at most three decimals is an edge, and counts there are exact."""


@dataclass(frozen=True)
class SimilarityHistogram:
    """Numbers of pairs per similarity, in bins of 0.001 from -1 to 1; rounding past an end counts to its bin."""

    counts_E: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES_E), np.int64))

    @classmethod
    def of(cls, similarity_P: np.ndarray) -> SimilarityHistogram:
        similarity_P = np.asarray(similarity_P, np.float32)
        if np.isnan(similarity_P).any():
            raise ValueError(f"similarity {int(np.isnan(similarity_P).argmax())} is NaN")
        bins_P = np.clip(np.searchsorted(EDGES_E, similarity_P, side="right") - 1, 0, len(EDGES_E) - 1)
        return cls(np.bincount(bins_P, minlength=len(EDGES_E)).astype(np.int64))

    def merge(self, other: SimilarityHistogram) -> SimilarityHistogram:
        return SimilarityHistogram(self.counts_E + other.counts_E)

    def __len__(self) -> int:
        return int(self.counts_E.sum())

    def num_above(self, threshold: float) -> int:
        """Pairs with similarity >= threshold: exact for three decimals, otherwise for the next edge above."""
        return int(self.counts_E[_edge(threshold) :].sum())

    def keep_rate(self, thresholds: Sequence[float]) -> dict[float, float]:
        """Share of the pairs counted here that each threshold keeps."""
        return {threshold: self.num_above(threshold) / max(len(self), 1) for threshold in thresholds}

    def to_json(self) -> dict[str, Any]:
        """Only the bins in use: `first` is the lower edge of the first of `counts`, each `width` wide."""
        used = np.flatnonzero(self.counts_E)
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        first = round(-1 + low / BINS_PER_UNIT, 3)
        return {"first": first, "width": 1 / BINS_PER_UNIT, "counts": self.counts_E[low:high].tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SimilarityHistogram:
        counts_E = np.zeros(len(EDGES_E), np.int64)
        low = round((content["first"] + 1) * BINS_PER_UNIT)
        counts_E[low : low + len(content["counts"])] = content["counts"]
        return cls(counts_E)


@dataclass(frozen=True)
class PairStatistics:
    """What is known of a set of pairs. `judged`: those whose clip has a hidden label; `correct`: those that fit it."""

    num_clips: int = 0
    """Clips in the pool, with pairs or without."""
    similarities: SimilarityHistogram = field(default_factory=SimilarityHistogram)
    judged: SimilarityHistogram = field(default_factory=SimilarityHistogram)
    correct: SimilarityHistogram = field(default_factory=SimilarityHistogram)
    captions_per_clip: Counter[int] = field(default_factory=Counter)
    """How many clips have so many captions; 0 stands for clips without."""
    clips_per_caption: Counter[str] = field(default_factory=Counter)
    """How many clips each caption has; captions without are absent."""

    @classmethod
    def of(
        cls,
        clip_id: Sequence[str] | np.ndarray,
        caption_id: Sequence[str] | np.ndarray,
        similarity_P: np.ndarray,
        *,
        num_clips: int,
        is_correct: Sequence[bool | None] | np.ndarray | None = None,
    ) -> PairStatistics:
        """Statistics of one shard, which holds all pairs of its clips.

        Args:
            is_correct: per pair True, False or None (the clip has no label), or a boolean array.
        """
        if not len(clip_id) == len(caption_id) == len(similarity_P):
            raise ValueError(f"{len(clip_id)} clips, {len(caption_id)} captions, {len(similarity_P)} similarities")
        per_clip = Counter(_listed(clip_id))
        if len(per_clip) > num_clips:
            raise ValueError(f"pairs of {len(per_clip)} clips in a pool of {num_clips}")
        sizes = Counter(per_clip.values())
        if num_clips > len(per_clip):
            sizes[0] = num_clips - len(per_clip)
        judged, correct = SimilarityHistogram(), SimilarityHistogram()
        if is_correct is not None:
            known_P = np.array([value is not None for value in is_correct], bool)
            right_P = np.array([bool(value) for value in is_correct], bool)
            judged = SimilarityHistogram.of(np.asarray(similarity_P)[known_P])
            correct = SimilarityHistogram.of(np.asarray(similarity_P)[right_P])
        histogram = SimilarityHistogram.of(similarity_P)
        return cls(num_clips, histogram, judged, correct, sizes, Counter(_listed(caption_id)))

    def merge(self, other: PairStatistics) -> PairStatistics:
        return PairStatistics(
            self.num_clips + other.num_clips,
            self.similarities.merge(other.similarities),
            self.judged.merge(other.judged),
            self.correct.merge(other.correct),
            self.captions_per_clip + other.captions_per_clip,
            self.clips_per_caption + other.clips_per_caption,
        )

    def precision(self, thresholds: Sequence[float]) -> dict[float, float | None]:
        """Share of correct pairs among the judged ones at or above each threshold; None where there is none."""
        result: dict[float, float | None] = {}
        for threshold in thresholds:
            judged = self.judged.num_above(threshold)
            result[threshold] = self.correct.num_above(threshold) / judged if judged else None
        return result

    def summary(self, thresholds: Sequence[float], *, num_captions: int, num_hubs: int = 10) -> dict[str, Any]:
        """The numbers for the report, as JSON types; keys of thresholds are texts.

        Args:
            num_captions: size of the caption pool; captions without a clip count as zeros in the skew.
        """
        clips = np.repeat(list(self.captions_per_clip), list(self.captions_per_clip.values()))
        zeros = max(num_captions - len(self.clips_per_caption), 0)
        captions = np.concatenate(
            [np.array(list(self.clips_per_caption.values()), np.int64), np.zeros(zeros, np.int64)]
        )
        hubs = sorted(self.clips_per_caption.items(), key=lambda item: (-item[1], item[0]))[:num_hubs]
        total = max(len(self.similarities), 1)
        return {
            "pairs": len(self.similarities),
            "clips": self.num_clips,
            "clips_with_pairs": self.num_clips - self.captions_per_clip[0],
            "captions": num_captions,
            "captions_with_pairs": len(self.clips_per_caption),
            "captions_per_clip_skew": skewness(np.sort(clips)),
            "clips_per_caption_skew": skewness(np.sort(captions)),
            "hubs": [{"caption_id": name, "clips": count, "share": count / total} for name, count in hubs],
            "by_threshold": {
                f"{threshold:g}": {
                    "pairs": self.similarities.num_above(threshold),
                    "keep_rate": self.similarities.num_above(threshold) / total,
                    "judged": self.judged.num_above(threshold),
                    "precision": precision,
                }
                for threshold, precision in self.precision(thresholds).items()
            },
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, so that `from_json` gives it back."""
        return {
            "num_clips": self.num_clips,
            **{name: getattr(self, name).to_json() for name in ("similarities", "judged", "correct")},
            "captions_per_clip": {str(size): count for size, count in sorted(self.captions_per_clip.items())},
            "clips_per_caption": dict(sorted(self.clips_per_caption.items())),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PairStatistics:
        sizes = Counter({int(size): count for size, count in content["captions_per_clip"].items()})
        return cls(
            content["num_clips"],
            SimilarityHistogram.from_json(content["similarities"]),
            SimilarityHistogram.from_json(content["judged"]),
            SimilarityHistogram.from_json(content["correct"]),
            sizes,
            Counter(content["clips_per_caption"]),
        )


def merged(parts: Iterable[PairStatistics]) -> PairStatistics:
    """The statistics of all parts together."""
    total = PairStatistics()
    for part in parts:
        total = total.merge(part)
    return total


def quantile_similarity(shards: Callable[[], Iterable[np.ndarray]], share: float) -> float:
    """The similarity at or above which lies the most similar `share` of all pairs: exact, in two passes.

    That is the n-th highest value with n = ceil(share x pairs); pairs equal to it are all kept. The first pass counts
    bins, the second sorts one bin, so memory holds no more than a bin's values and a shard.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share}: above 0, at most 1")
    histogram = SimilarityHistogram()
    for similarity_P in shards():
        histogram = histogram.merge(SimilarityHistogram.of(similarity_P))
    if not len(histogram):
        raise ValueError("no pairs to take a quantile of")
    wanted = int(np.ceil(share * len(histogram) - 1e-9))
    above_E = histogram.counts_E[::-1].cumsum()[::-1]
    at = int(np.flatnonzero(above_E >= wanted)[-1])
    higher = int(above_E[at] - histogram.counts_E[at])
    low = EDGES_E[at] if at else -np.inf
    high = EDGES_E[at + 1] if at + 1 < len(EDGES_E) else np.inf
    bins = [part[(part >= low) & (part < high)] for part in (np.asarray(s, np.float32) for s in shards())]
    return float(np.sort(np.concatenate(bins))[::-1][wanted - higher - 1])


def _edge(threshold: float) -> int:
    return int(np.searchsorted(EDGES_E, np.float32(threshold), side="left"))


def _listed(identifiers: Any) -> list:
    return identifiers.to_pylist() if hasattr(identifiers, "to_pylist") else np.asarray(identifiers).tolist()
