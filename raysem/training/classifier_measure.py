"""Measuring a classifier on held-out clips while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysem.errors import DataError
from raysem.metrics.accuracy import top1_correct
from raysem.models.classifier import Classifier
from raysem.training.clip_scores import ClipScores
from raysem.training.clips import ClipLoader
from raysem.training.context import TrainContext
from raysem.training.rejects import UnusableClip

# Shapes: N clips of the table, B clips of one forward call, T samples, K labels, C width of the shared space.


class ClassMeasure:
    """A `Measure`: the accuracy over the whole table, one centre crop a clip; of equal scores each counts its share.

    A clip that cannot be used is left out; `clips` says how many are in.

    Args:
        places_N: the place of each row's label among the classifier's.
    """

    def __init__(
        self, clips: ClipLoader, table: int, places_N: np.ndarray, *, name: str, batch_size: int, num_threads: int
    ):
        self.name, self.chooses = name, True
        self._scores = ClipScores(clips, table, batch_size=batch_size, num_threads=num_threads)
        self._places_N, self._where = places_N, clips.tables[table].name

    @property
    def unusable(self) -> Mapping[str, UnusableClip]:
        """The clips of this rank that had to be left out, by id."""
        return self._scores.unusable

    def measure(self, model: nn.Module, context: TrainContext) -> dict[str, float]:
        """accuracy and clips of `model` in eval mode and fp32; the ranks share the clips, and get the same result."""
        classifier = cast(Classifier, model)
        text_KC = None
        if classifier.reads_text:
            text_KC = torch.from_numpy(classifier.embed_labels(classifier.labels)).to(context.device)

        def score(waveform_BT: Tensor) -> Tensor:
            audio_BC = classifier.encode_audio(waveform_BT)
            return audio_BC if text_KC is None else F.normalize(audio_BC, dim=-1) @ text_KC.T

        scores_NK, present_N = self._scores.of(
            model, score, num_classes=classifier.num_labels, crop_samples=classifier.crop_samples, context=context
        )
        if not present_N.any():
            raise DataError(f"{self._where}: no clip can be used")
        found_NK = scores_NK[present_N]
        if not np.isfinite(found_NK).all():  # the loop stops with its step
            return {"accuracy": float("nan"), "clips": float(len(found_NK))}
        correct_N = top1_correct(found_NK, self._places_N[present_N])
        return {"accuracy": float(correct_N.mean()), "clips": float(len(found_NK))}
