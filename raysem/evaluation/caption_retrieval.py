"""Caption retrieval in both directions: which clip does a caption mean, which captions describe a clip."""

# Shapes: A clips, C distinct captions, P (clip, caption) pairs, D embedding width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from raysem.config import Settings
from raysem.evaluation.zero_shot import cosine_similarity
from raysem.metrics.bootstrap import Interval, bootstrap_interval
from raysem.metrics.retrieval import RetrievalScores, retrieval_scores

CUTOFFS = (1, 5, 10)


class CaptionRetrievalSettings(Settings):
    """Intervals of the retrieval numbers; the cutoffs are the field's: R@1/5/10 and mAP@10."""

    num_resamples: PositiveInt = 1000
    interval_level: float = Field(0.95, gt=0, lt=1)


@dataclass(frozen=True)
class CaptionPairs:
    """The distinct captions of a set of clips, and which clip has which: a text on several clips is right for all."""

    texts: tuple[str, ...]
    clip_P: np.ndarray
    caption_P: np.ndarray
    num_clips: int


@dataclass(frozen=True)
class DirectionResult:
    """One direction of the search. Intervals are over clips: captions of one clip are drawn together."""

    scores: RetrievalScores
    group_Q: np.ndarray  # the clip that a query belongs to (for a shared text the first of its clips)
    recall_intervals: dict[int, Interval]
    map_interval: Interval
    gallery_size: int

    def to_json(self) -> dict[str, Any]:
        """{"R@1": .., "R@1_interval": [lo, hi], .., "mAP@10": .., "num_queries": .., "gallery_size": ..}"""
        numbers: dict[str, Any] = {}
        for name, interval in [
            *((f"R@{k}", interval) for k, interval in self.recall_intervals.items()),
            (f"mAP@{self.scores.precision_cutoff}", self.map_interval),
        ]:
            numbers |= {name: interval.estimate, f"{name}_interval": interval.to_json()}
        return numbers | {"num_queries": len(self.group_Q), "gallery_size": self.gallery_size}


@dataclass(frozen=True)
class CaptionRetrievalResult:
    """Both directions for one model on one captioned set."""

    text_to_audio: DirectionResult
    audio_to_text: DirectionResult

    def to_json(self) -> dict[str, Any]:
        """The part of summary.json under `retrieval.<set>`."""
        return {"text_to_audio": self.text_to_audio.to_json(), "audio_to_text": self.audio_to_text.to_json()}


def caption_pairs(captions: Sequence[Sequence[str]]) -> CaptionPairs:
    """Pairs of clips and distinct captions, captions in the order of first use; `captions[i]` are those of clip i."""
    without = [index for index, texts in enumerate(captions) if not texts]
    if without:
        raise ValueError(f"{len(without)} clips have no caption, the first is clip {without[0]}")
    index_of: dict[str, int] = {}
    pairs = [(clip, index_of.setdefault(text, len(index_of))) for clip, own in enumerate(captions) for text in own]
    clip_P, caption_P = np.unique(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=0).T
    return CaptionPairs(tuple(index_of), clip_P, caption_P, len(captions))


def caption_retrieval(
    audio_AD: np.ndarray,
    text_CD: np.ndarray,
    pairs: CaptionPairs,
    *,
    settings: CaptionRetrievalSettings,
    seed: int = 0,
) -> CaptionRetrievalResult:
    """R@1/5/10 and mAP@10 by cosine, text to audio and audio to text.

    A caption that is written on several clips, as templated ones are, is one query with several right answers;
    counting each copy as its own query would set a ceiling on R@1 that no model can pass.
    """
    if len(audio_AD) != pairs.num_clips or len(text_CD) != len(pairs.texts):
        raise ValueError(
            f"one embedding per clip and per distinct caption: {len(audio_AD)} for {pairs.num_clips} clips, "
            f"{len(text_CD)} for {len(pairs.texts)} captions"
        )
    similarity_AC = cosine_similarity(audio_AD, text_CD)
    relevant_AC = np.zeros(similarity_AC.shape, dtype=bool)
    relevant_AC[pairs.clip_P, pairs.caption_P] = True
    return CaptionRetrievalResult(
        text_to_audio=_direction(similarity_AC.T, relevant_AC.T, relevant_AC.argmax(axis=0), settings, seed),
        audio_to_text=_direction(similarity_AC, relevant_AC, np.arange(len(audio_AD)), settings, seed),
    )


def _direction(
    similarity_QG: np.ndarray,
    relevant_QG: np.ndarray,
    group_Q: np.ndarray,
    settings: CaptionRetrievalSettings,
    seed: int,
) -> DirectionResult:
    scores = retrieval_scores(similarity_QG, relevant_QG, cutoffs=CUTOFFS, precision_cutoff=10)

    def interval(values_Q: np.ndarray) -> Interval:
        return bootstrap_interval(
            values_Q,
            seed=seed,
            groups_A=group_Q,
            num_resamples=settings.num_resamples,
            level=settings.interval_level,
        )

    return DirectionResult(
        scores=scores,
        group_Q=group_Q,
        recall_intervals={k: interval(scores.recall_QC[:, at]) for at, k in enumerate(CUTOFFS)},
        map_interval=interval(scores.average_precision_Q),
        gallery_size=similarity_QG.shape[1],
    )
