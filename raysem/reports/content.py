"""What a report shows. A job fills this in; nothing here knows a job, a cluster or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Headline:
    """One of the three to five numbers at the top, such as ("61.5 %", "student accuracy", "teacher 55.0 %")."""

    value: str
    label: str
    detail: str = ""


@dataclass(frozen=True)
class StageLine:
    """One stage of the run; `seconds` are those of this run, so nearly none for a skipped stage."""

    name: str
    seconds: float
    outcome: Literal["ran", "resumed", "skipped", "failed"] = "ran"
    detail: str = ""


@dataclass(frozen=True)
class OutcomeCount:
    """How many clips ended this way; `examples` are (clip_id, reason). The counts of a report add up to its clips."""

    outcome: str
    count: int
    examples: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class SimilarityStatistics:
    """The scored pairs of clips and captions, and what each threshold would keep of them."""

    bin_edges: Sequence[float]
    bin_counts: Sequence[int]
    thresholds: Mapping[str, float]  # in use, by the name of the Improvement-Set; drawn as marks
    sweep_thresholds: Sequence[float]
    kept_pairs: Sequence[int]  # at each sweep threshold
    kept_clips: Sequence[int]
    num_pairs: int  # all that were compared, the base of a keep-rate
    num_clips: int
    precision: Sequence[float | None] | None = None  # against hidden labels; None where nothing is kept
    floor: float | None = None  # pairs below were never stored

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SimilarityStatistics:
        """From `statistics.json`. DS compares text with text: its threshold is none of these cosines' and not drawn."""
        return cls(
            bin_edges=content["bin_edges"],
            bin_counts=content["bin_counts"],
            thresholds={
                kept["name"]: kept["threshold"]
                for kept in content["improvement_sets"].values()
                if kept.get("strategy") != "DS"
            },
            sweep_thresholds=content["sweep_thresholds"],
            kept_pairs=content["kept_pairs"],
            kept_clips=content["kept_clips"],
            num_pairs=content["num_clips"] * content["num_captions"],
            num_clips=content["num_clips"],
            precision=content["precision"],
            floor=content["floor"],
        )


@dataclass(frozen=True)
class ImprovementSetStatistics:
    """What one rule kept. The two mappings say how often a count occurs: {1: 310, 2: 54} is 310 clips with one."""

    name: str
    rule: str
    threshold: float
    num_clips: int
    num_pairs: int
    captions_per_clip: Mapping[int, int]
    clips_per_caption: Mapping[int, int]
    captions_per_clip_skewness: float | None = None
    clips_per_caption_skewness: float | None = None
    precision: float | None = None
    frequent_captions: Sequence[tuple[str, int]] = ()  # the hubs: text and number of clips
    strategy: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ImprovementSetStatistics:
        """From one of `improvement_sets` in `statistics.json`, where JSON made texts of the counts."""
        known = {name: value for name, value in content.items() if name in cls.__dataclass_fields__}
        for name in ("captions_per_clip", "clips_per_caption"):
            known[name] = {int(size): count for size, count in content[name].items()}
        return cls(**known | {"frequent_captions": [(text, count) for text, count in content["frequent_captions"]]})


@dataclass(frozen=True)
class ListenItem:
    """One pair of clip and caption to listen to."""

    clip_id: str
    caption: str
    similarity: float
    waveform_T: np.ndarray
    sample_rate: int
    note: str = ""


@dataclass(frozen=True)
class ClassListening:
    """Pairs of one class, best first: well above the threshold, right at it, and below it."""

    label: str
    best: Sequence[ListenItem] = ()
    borderline: Sequence[ListenItem] = ()
    rejected: Sequence[ListenItem] = ()


@dataclass(frozen=True)
class ReportContent:
    """The whole report. A part that is left empty has no section.

    Attributes:
        evaluation: the part of summary.json: by model `{"zero_shot": {set: ..}, "retrieval": {set: ..}}`, in the
            order in which the models are listed (`ZeroShotResult.to_json`, `CaptionRetrievalResult.to_json`).
        differences: the part of summary.json (`Difference.to_json`).
        baselines: names of models that others are compared with, teacher first.
        curves: rows of metrics.jsonl by model; each has `step`, may have `kind`, and the rest is drawn by name.
        listening_threshold: the cosine that parts kept from rejected in `listening`.
    """

    title: str
    subtitle: str = ""
    headlines: Sequence[Headline] = ()
    facts: Sequence[tuple[str, str]] = ()
    stages: Sequence[StageLine] = ()
    outcomes: Sequence[OutcomeCount] = ()
    evaluation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    differences: Sequence[Mapping[str, Any]] = ()
    baselines: Sequence[str] = ("teacher", "control")
    similarities: SimilarityStatistics | None = None
    improvement_sets: Sequence[ImprovementSetStatistics] = ()
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    listening: Sequence[ClassListening] = ()
    listening_threshold: float | None = None
    notes: Sequence[str] = ()
    recipe_yaml: str = ""
