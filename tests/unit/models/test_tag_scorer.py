"""A tagger's checkpoint as a scorer of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysem.config import build
from raysem.errors import ConfigError
from raysem.models.tag_scorer import TaggerSource, TagScorer
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import save_tagger

NAMES, IDS = ("Dog", "Cat", "Rain, heavy", "Siren"), ("/m/1", "/m/2", "/m/3", "/m/4")


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    """With dropout, and batch norms that have seen the clips."""
    numbers: dict[str, Any] = {"sample_rate": 8000, "window_samples": 256, "num_mels": 32, "max_hz": 3900.0}
    network = {"channels": (2, 2, 4, 4, 8, 8), "num_mels": 32}
    settings = TaggerSettings(
        encoder="cnn14_tiny", front_end=numbers, network=network, crop_seconds=1.5, projection="linear"
    )
    model = build_tagger(settings, NAMES, IDS, 6, seed=0)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.from_numpy(clips()))
    return model


@pytest.fixture
def checkpoint(tagger: Tagger, tmp_path: Path) -> str:
    save_tagger(str(tmp_path / "tagger"), tagger)
    return str(tmp_path / "tagger")


def clips(num_samples: int = 12_000) -> np.ndarray:
    time_T = np.arange(num_samples) / 8000
    noise_BT = 0.05 * np.random.default_rng(1).standard_normal((5, num_samples))
    tones_BT = 0.3 * np.sin(2 * np.pi * np.array([200, 500, 900, 1500, 3000])[:, None] * time_T)
    return (noise_BT + tones_BT).astype(np.float32)


def test_scores_are_the_probabilities_of_the_checkpoint_s_tagger(tagger: Tagger, checkpoint: str):
    scorer = TagScorer(TaggerSource(location=checkpoint))
    score_BK = scorer.embed_waveforms(clips())
    with torch.no_grad():
        logits_BK = tagger.eval()(torch.from_numpy(clips())).logits_BK
    assert (score_BK.shape, score_BK.dtype) == ((5, 4), np.float32)
    assert scorer.embedding_width == 4
    np.testing.assert_allclose(score_BK, torch.sigmoid(logits_BK).numpy(), rtol=0, atol=1e-6)
    assert score_BK.std(axis=0).min() > 1e-3, "the clips must differ"
    assert score_BK.min() > 0
    assert score_BK.max() < 1


def test_a_clip_s_scores_depend_on_neither_its_batch_nor_the_call(checkpoint: str):
    scorer = TagScorer(TaggerSource(location=checkpoint), torch.device("cpu"))
    together_BK = scorer.embed_waveforms(clips())
    alone_BK = np.concatenate([scorer.embed_waveforms(clip_T[None]) for clip_T in clips()])
    np.testing.assert_allclose(alone_BK, together_BK, rtol=0, atol=2e-6)
    assert np.array_equal(scorer.embed_waveforms(clips()), together_BK)
    assert np.array_equal(TagScorer(TaggerSource(location=checkpoint)).embed_waveforms(clips()), together_BK)


def test_a_clip_of_another_length_than_the_crop_is_scored(checkpoint: str):
    scorer = TagScorer(TaggerSource(location=checkpoint))
    assert scorer.embed_waveforms(clips(20_000)).shape == (5, 4)


def test_what_is_no_tagger_or_no_batch_of_clips_is_refused(checkpoint: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        TagScorer(TaggerSource(location=str(tmp_path / "empty")))
    with pytest.raises(ConfigError, match="location: is missing and has no default"):
        build(TaggerSource, {})
    with pytest.raises(ValueError, match=r"expected float waveforms \(B, T\)"):
        TagScorer(TaggerSource(location=checkpoint)).embed_waveforms(clips()[0])
