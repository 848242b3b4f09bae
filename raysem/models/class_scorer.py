"""A classifier as the pipeline over clips sees it: waveforms in, one row a clip out."""

# Shapes: B clips in the batch, T samples, K labels.

from __future__ import annotations

import numpy as np
import torch

from raysem.config import Settings
from raysem.models.classifier_checkpoint import load_classifier


class ClassifierSource(Settings):
    """Where a classifier comes from: a checkpoint folder of raysem."""

    location: str


class ClassScorer:
    """The probabilities of a classifier's own labels, in the place of an embedding."""

    def __init__(self, source: ClassifierSource, device: str | torch.device = "cpu"):
        self._classifier = load_classifier(source.location, device)
        reads_text = self._classifier.reads_text
        self._text_KC = self._classifier.embed_labels(self._classifier.labels) if reads_text else None

    @property
    def embedding_width(self) -> int:
        """K."""
        return self._classifier.num_labels

    def embed_waveforms(self, waveforms_BT: np.ndarray) -> np.ndarray:
        """Probabilities (B, K), float32."""
        return self._classifier.score_waveforms(waveforms_BT, self._text_KC)
