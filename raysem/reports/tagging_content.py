"""What a report on taggers shows. A job fills this in; nothing here knows a job, a cluster or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysem.evaluation.wrong_tags import RankedTag
from raysem.reports.content import OutcomeCount, StageLine


@dataclass(frozen=True)
class HeardClip:
    """One clip of an evaluation set to listen to, with what each model calls it, best first (`top_tags`)."""

    clip_id: str
    labels: Sequence[str]
    tags: Mapping[str, Sequence[RankedTag]]
    waveform_T: np.ndarray
    sample_rate: int
    note: str = ""


@dataclass(frozen=True)
class TextTable:
    """A table of embedded class texts beside the ontology it describes."""

    source: str  # description, name, prompt, or the user's table
    encoder: str
    digest: str
    num_classes: int
    rank_correlation: float | None
    """Spearman's rho of similarity and distance over pairs of classes: -1 if nearer classes have nearer texts."""


@dataclass(frozen=True)
class TaggingReport:
    """The whole report. A part that is left empty has no section.

    Attributes:
        evaluation: the part of summary.json: by model `{"tagging": {set: TaggingResult.to_json()}}`, in the order in
            which the models are listed.
        differences: the part of summary.json (`Difference.to_json` of `tagging_differences`).
        baselines: names of models that others are compared with, the plain one first.
        confusions: the part of summary.json (`MovedConfusions.to_json`).
        models: facts by model: encoder, objective, loss weights, seed, digest of the weights.
        curves: rows of metrics.jsonl by model; each has `step`, may have `kind`, and the rest is drawn by name.
        outcomes: what became of the clips of each corpus.
        facts: recipe, data, versions: with `models` and `text_tables` every number can be traced.
    """

    title: str
    subtitle: str = ""
    evaluation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    differences: Sequence[Mapping[str, Any]] = ()
    baselines: Sequence[str] = ()
    confusions: Sequence[Mapping[str, Any]] = ()
    listening: Sequence[HeardClip] = ()
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    text_tables: Sequence[TextTable] = ()
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    outcomes: Mapping[str, Sequence[OutcomeCount]] = field(default_factory=dict)
    stages: Sequence[StageLine] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    recipe_yaml: str = ""
