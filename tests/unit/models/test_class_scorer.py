"""Checkpoints of classifiers and taggers as scorers of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysem.config import build
from raysem.errors import ConfigError, DataError
from raysem.models.class_scorer import ClassifierSource, ClassScorer
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_checkpoint import save_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.scorer import load_scorer
from raysem.models.tag_scorer import TaggerSource, TagScorer
from raysem.models.tagger import TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import save_tagger

LABELS = ("dog", "cat", "rain", "siren")
SMALL: dict[str, Any] = {
    "encoder": "cnn14_tiny",
    "front_end": {"sample_rate": 8000, "window_samples": 512, "hop_samples": 80, "max_hz": 3900.0},
    "network": {"channels": (4, 4, 4, 8, 8, 12)},
    "crop_seconds": 1.5,
}


@pytest.fixture(scope="module", params=["cscm", None], ids=str)
def classifier(request: pytest.FixtureRequest, bert_folder: Path) -> Classifier:
    """With dropout, and batch norms that have seen the clips; by prompts and without text."""
    content: dict[str, Any] = {
        "similarity": request.param and {"name": request.param},
        "text": {"name": str(bert_folder), "max_tokens": 30},
        "prompts": {"templates": ("{label}", "the sound of a {label}")},
        "shared_width": 24,
        "audio_dropout": 0.2,
        "initial_scale": 20.0,
    }
    model = build_classifier(build(ClassifierSettings, SMALL | content), LABELS, seed=0)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train().encode_audio(torch.from_numpy(clips()))
    return model


@pytest.fixture
def checkpoint(classifier: Classifier, tmp_path: Path) -> str:
    save_classifier(str(tmp_path / "classifier"), classifier)
    return str(tmp_path / "classifier")


def clips(num_samples: int = 12_000) -> np.ndarray:
    time_T = np.arange(num_samples) / 8000
    noise_BT = 0.05 * np.random.default_rng(1).standard_normal((5, num_samples))
    tones_BT = 0.3 * np.sin(2 * np.pi * np.array([200, 500, 900, 1500, 3000])[:, None] * time_T)
    return (noise_BT + tones_BT).astype(np.float32)


def test_scores_are_the_probabilities_of_the_classifier_s_own_labels(classifier: Classifier, checkpoint: str):
    scorer = ClassScorer(ClassifierSource(location=checkpoint))
    score_BK = scorer.embed_waveforms(clips())
    text_KC = classifier.embed_labels(LABELS) if classifier.reads_text else None
    assert scorer.embedding_width == 4
    assert (score_BK.shape, score_BK.dtype) == ((5, 4), np.float32)
    assert np.array_equal(score_BK, classifier.score_waveforms(clips(), text_KC))
    np.testing.assert_allclose(score_BK.sum(axis=1), 1, rtol=0, atol=1e-6)
    assert score_BK.std(axis=0).min() > 1e-4, "the clips must differ"


def test_a_clip_s_scores_depend_on_neither_its_batch_nor_the_call(checkpoint: str):
    scorer = ClassScorer(ClassifierSource(location=checkpoint), torch.device("cpu"))
    together_BK = scorer.embed_waveforms(clips())
    alone_BK = np.concatenate([scorer.embed_waveforms(clip_T[None]) for clip_T in clips()])
    np.testing.assert_allclose(alone_BK, together_BK, rtol=0, atol=2e-5)  # cosines to 1e-6, times a scale of 20
    assert np.array_equal(scorer.embed_waveforms(clips()), together_BK)
    assert np.array_equal(ClassScorer(ClassifierSource(location=checkpoint)).embed_waveforms(clips()), together_BK)


def test_a_clip_of_another_length_than_the_crop_is_scored(checkpoint: str):
    assert ClassScorer(ClassifierSource(location=checkpoint)).embed_waveforms(clips(20_000)).shape == (5, 4)


def test_a_scorer_is_that_of_its_source(classifier: Classifier, checkpoint: str, tmp_path: Path):
    tagger = build_tagger(build(TaggerSettings, SMALL), ("A", "B", "C"), ("1", "2", "3"), None, seed=0)
    save_tagger(str(tmp_path / "tagger"), tagger)
    of_classes = load_scorer(ClassifierSource(location=checkpoint))
    of_tags = load_scorer(TaggerSource(location=str(tmp_path / "tagger")), "cpu")
    assert isinstance(of_classes, ClassScorer)
    assert isinstance(of_tags, TagScorer)
    assert (of_classes.embedding_width, of_tags.embedding_width) == (4, 3)
    text_KC = classifier.embed_labels(LABELS) if classifier.reads_text else None
    assert np.array_equal(of_classes.embed_waveforms(clips()), classifier.score_waveforms(clips(), text_KC))
    assert np.array_equal(of_tags.embed_waveforms(clips()), tagger.score_waveforms(clips()))


def test_a_source_of_the_other_kind_is_refused(checkpoint: str, tmp_path: Path):
    tagger = build_tagger(build(TaggerSettings, SMALL), ("A", "B"), ("1", "2"), None, seed=0)
    save_tagger(str(tmp_path / "tagger"), tagger)
    with pytest.raises(DataError, match=r"tagger: is a tagger .*, expected a classifier"):
        load_scorer(ClassifierSource(location=str(tmp_path / "tagger")))
    with pytest.raises(DataError, match=r"classifier: is a classifier .*, expected a tagger"):
        load_scorer(TaggerSource(location=checkpoint))


def test_what_is_no_classifier_or_no_batch_of_clips_is_refused(checkpoint: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: no raysem checkpoint there"):
        ClassScorer(ClassifierSource(location=str(tmp_path / "empty")))
    with pytest.raises(ConfigError, match="location: is missing and has no default"):
        build(ClassifierSource, {})
    with pytest.raises(ValueError, match=r"expected float waveforms \(B, T\)"):
        ClassScorer(ClassifierSource(location=checkpoint)).embed_waveforms(clips()[0])
