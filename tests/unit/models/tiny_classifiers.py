"""Classifiers over tiny encoders, and clips for them. Nothing here is a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from raysem.audio.spec_mask import SpecMaskSettings
from raysem.config import build
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.similarity import SimilarityName

LABELS = ("dog", "cat", "rain", "siren")
SIMILARITIES: list[SimilarityName] = list(get_args(SimilarityName))
KINDS: list[SimilarityName | None] = [*SIMILARITIES, None]
TINY = ("cnn14_tiny", "mn_tiny", "ast_tiny", "hts_at_tiny", "passt_tiny")
SMALL: dict[str, Any] = {
    "encoder": "cnn14_tiny",
    "front_end": {"sample_rate": 8000, "window_samples": 512, "hop_samples": 80, "max_hz": 3900.0},
    "network": {"channels": (4, 4, 4, 8, 8, 12)},
    "crop_seconds": 1.5,
}
"""A map of 12 channels, 2 rows and 4 columns from 12,000 samples."""
MASKS = SpecMaskSettings(num_masks_frequency=1, max_bins=20, num_masks_time=1, max_frames=80)
SHARED_WIDTH, TEXT_WIDTH, NUM_SAMPLES = 24, 32, 12_000
ENSEMBLE = {"templates": ("{label}", "the sound of a {label}", "a loud {label} in the rain")}


def settings_of(
    kind: SimilarityName | None, text: Path, *, trained: bool = False, pooling: str = "mean", **changes: Any
) -> ClassifierSettings:
    """Of the small encoder, where `changes` do not name another."""
    content: dict[str, Any] = {
        "similarity": None if kind is None else {"name": kind, "num_layers": 2, "num_heads": 4, "max_frames": 40},
        "text": {"name": str(text), "max_tokens": 30, "trained": trained, "pooling": pooling},
        "shared_width": SHARED_WIDTH,
    }
    return build(ClassifierSettings, content | ({} if "encoder" in changes else SMALL) | changes)


def classifier(
    kind: SimilarityName | None, text: Path, *, labels: Sequence[str] = LABELS, seed: int = 0, **changes: Any
) -> Classifier:
    return build_classifier(settings_of(kind, text, **changes), labels, seed=seed)


def clips(num_clips: int = 5, num_samples: int = NUM_SAMPLES) -> np.ndarray:
    """Tones in noise, each higher than the one before."""
    time_T = np.arange(num_samples) / 8000
    noise_BT = 0.05 * np.random.default_rng(1).standard_normal((num_clips, num_samples))
    tones_BT = 0.3 * np.sin(2 * np.pi * np.geomspace(200, 3000, num_clips)[:, None] * time_T)
    return (noise_BT + tones_BT).astype(np.float32)


def settle(model: Classifier) -> Classifier:
    """Batch norms see the clips once, else they would look alike in evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model.train().encode_audio(torch.from_numpy(clips()))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def label_vectors(model: Classifier, labels: Sequence[str] = LABELS) -> np.ndarray | None:
    return model.embed_labels(labels) if model.reads_text else None


def tokens(model: Classifier, texts: Sequence[str] = LABELS) -> dict[str, Tensor]:
    assert model.text_encoder is not None
    return model.text_encoder.tokenize(texts)
