"""What a report on classifiers shows. A job fills this in; nothing here knows a job, a cluster or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysem.evaluation.confused_clips import ConfusedClip
from raysem.metrics.accuracy import Confusion
from raysem.reports.content import OutcomeCount, StageLine


@dataclass(frozen=True)
class HeardMistake:
    """A clip that was called another class, to listen to."""

    clip: ConfusedClip
    waveform_T: np.ndarray
    sample_rate: int
    note: str = ""


@dataclass(frozen=True)
class HeardPair:
    """A pair of confused classes with some of its clips, the surest mistake first (`confused_clips`)."""

    confusion: Confusion
    clips: Sequence[HeardMistake]


@dataclass(frozen=True)
class ClassificationReport:
    """The whole report. A part that is left empty has no section.

    Attributes:
        corpus: what the folds are of, such as "ESC-50".
        evaluation: the part of summary.json: by model `{"classification": ClassificationResult.to_json()}`, in the
            order in which the models are listed.
        differences: the part of summary.json (`Difference.to_json` of `classification_differences`).
        baselines: names of models that others are compared with, the plain one first.
        listening: by model, the most confused pairs first.
        curves: rows of metrics.jsonl by model and fold; each has `step`, may have `kind`, and the rest is drawn by
            name.
        models: facts by model: encoder, similarity module, text encoder, prompts, parameters, fingerprint.
        outcomes: what became of the clips, by corpus or fold.
        facts: recipe, data, versions: with `models` every number can be traced.
    """

    title: str
    subtitle: str = ""
    corpus: str = ""
    evaluation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    differences: Sequence[Mapping[str, Any]] = ()
    baselines: Sequence[str] = ()
    listening: Mapping[str, Sequence[HeardPair]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    outcomes: Mapping[str, Sequence[OutcomeCount]] = field(default_factory=dict)
    stages: Sequence[StageLine] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    recipe_yaml: str = ""
