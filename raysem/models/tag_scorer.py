"""A tagger as the pipeline over clips sees it: waveforms in, one row a clip out."""

# Shapes: B clips in the batch, T samples, K classes.

from __future__ import annotations

import numpy as np
import torch

from raysem.config import Settings
from raysem.models.tagger_checkpoint import load_tagger


class TaggerSource(Settings):
    """Where a tagger comes from: a checkpoint folder of raysem."""

    location: str


class TagScorer:
    """The probabilities of a tagger's classes, in the place of an embedding."""

    def __init__(self, source: TaggerSource, device: str | torch.device = "cpu"):
        self._tagger = load_tagger(source.location, device)

    @property
    def embedding_width(self) -> int:
        """K."""
        return self._tagger.num_classes

    def embed_waveforms(self, waveforms_BT: np.ndarray) -> np.ndarray:
        """Probabilities (B, K), float32."""
        return self._tagger.score_waveforms(waveforms_BT)
