"""A tiny CLAP; puts `tiny_classifiers` on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raysem.audio.logmel import LogMelSettings
from raysem.models.clap import Clap, ClapSettings
from raysem.models.start import build_clap
from raysem.text.encoder import TextEncoderSettings

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def tiny_settings(bert_folder: Path) -> ClapSettings:
    """A CLAP of 20 thousand weights at 8 kHz, with crops of one second."""
    return ClapSettings(
        audio_encoder="cnn14_tiny",
        audio_channels=(4, 4, 4, 8, 8, 16),
        log_mel=LogMelSettings(sample_rate=8000, window_samples=256, hop_samples=100, num_mels=32, max_hz=3900),
        crop_seconds=1.0,
        text=TextEncoderSettings(name=str(bert_folder), max_tokens=30),
        embedding_width=24,
    )


@pytest.fixture
def tiny_clap(tiny_settings: ClapSettings) -> Clap:
    return build_clap(tiny_settings, seed=0)
