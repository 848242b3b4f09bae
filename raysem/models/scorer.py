"""Models that the pipeline over clips scores with: a row of probabilities a clip, in the place of an embedding."""

# Shapes: B clips in the batch, T samples, K classes.

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from raysem.models.class_scorer import ClassifierSource, ClassScorer
from raysem.models.tag_scorer import TaggerSource, TagScorer

ScorerSource = TaggerSource | ClassifierSource


class ClipScorer(Protocol):
    """Waveforms to probabilities; a row does not depend on its batch beyond rounding."""

    @property
    def embedding_width(self) -> int:
        """K."""
        ...

    def embed_waveforms(self, waveforms_BT: np.ndarray) -> np.ndarray:
        """Probabilities (B, K), float32."""
        ...


def load_scorer(source: ScorerSource, device: str | torch.device = "cpu") -> ClipScorer:
    """The model of a source, in evaluation mode."""
    return TagScorer(source, device) if isinstance(source, TaggerSource) else ClassScorer(source, device)
