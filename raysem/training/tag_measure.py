"""Measuring a tagger while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from torch import nn

from raysem.errors import DataError
from raysem.metrics.ontology_aware import tagging_precision
from raysem.models.tagger import Tagger
from raysem.ontology.tag_classes import TagClasses
from raysem.training.clip_scores import ClipScores
from raysem.training.clips import ClipLoader
from raysem.training.context import TrainContext
from raysem.training.rejects import UnusableClip
from raysem.training.table import TrainingTable

# Shapes: N clips of the table, K classes.


class TagMeasure:
    """A `Measure`: mAP and OmAP over the whole table, one centre crop a clip.

    A clip that cannot be used is left out; `clips` says how many are in.
    """

    def __init__(
        self,
        clips: ClipLoader,
        table: int,
        classes: TagClasses,
        *,
        name: str,
        chooses: bool,
        batch_size: int,
        num_threads: int,
    ):
        self.name, self.chooses = name, chooses
        self._scores = ClipScores(clips, table, batch_size=batch_size, num_threads=num_threads)
        rows = clips.tables[table]
        assert isinstance(rows, TrainingTable)  # held-out clips are read here, whoever decodes those to train on
        self._classes, self._where = classes, rows.name
        self._targets_NK = classes.targets(rows.all_texts(), where=self._where)

    @property
    def num_rows(self) -> int:
        """N."""
        return self._scores.num_rows

    @property
    def unusable(self) -> Mapping[str, UnusableClip]:
        """The clips of this rank that had to be left out, by id."""
        return self._scores.unusable

    def measure(self, model: nn.Module, context: TrainContext) -> dict[str, float]:
        """map, omap and clips of `model` in eval mode and fp32; the ranks share the clips, and get the same result."""
        tagger = cast(Tagger, model)
        scores_NK, present_N = self._scores.of(
            model,
            lambda waveform_BT: tagger(waveform_BT).logits_BK,
            num_classes=len(self._classes),
            crop_samples=tagger.crop_samples,
            context=context,
        )
        targets_NK = self._targets_NK[present_N]
        if not targets_NK.any():
            raise DataError(f"{self._where}: no usable clip has a label")
        return self._metrics(scores_NK[present_N], targets_NK)

    def _metrics(self, scores_NK: np.ndarray, targets_NK: np.ndarray) -> dict[str, float]:
        clips = float(len(scores_NK))
        if not np.isfinite(scores_NK).all():  # the loop stops with its step where such a metric chooses
            return {"map": float("nan"), "omap": float("nan"), "clips": clips}
        precision = tagging_precision(scores_NK, targets_NK, self._classes.distance_KK)
        return {"map": precision.mean_average_precision, "omap": precision.ontology_aware, "clips": clips}
