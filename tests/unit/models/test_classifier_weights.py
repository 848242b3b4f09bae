"""Weights of classifiers: what learns, what a seed makes, what training alone changes, and the fingerprint."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_classifiers import (
    ENSEMBLE,
    KINDS,
    LABELS,
    MASKS,
    SMALL,
    TEXT_WIDTH,
    TINY,
    classifier,
    clips,
    settings_of,
    tokens,
)
from tiny_clip_tower import clip_tower
from torch import Tensor

from raysem.audio.spec_mask import mask_spectrogram
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.pretrained import EncoderSource
from raysem.models.similarity import SimilarityName
from raysem.text.encoder import TextEncoder


@pytest.mark.parametrize(("shared_width", "has_layer"), [(TEXT_WIDTH, False), (TEXT_WIDTH + 4, True)])
def test_a_linear_layer_follows_a_text_encoder_of_another_width(shared_width: int, has_layer: bool, bert_folder: Path):
    model = classifier("mean", bert_folder, shared_width=shared_width).eval()
    assert (model.text_projection is not None) == has_layer
    assert model.text_encoder is not None
    with torch.no_grad():
        features_QV = model.text_encoder(tokens(model))
        text_QC = model.encode_text(tokens(model))
        assert torch.equal(model.encode_text_features(features_QV), text_QC)
        assert text_QC.shape == (4, shared_width)
        if model.text_projection is None:
            assert torch.equal(text_QC, features_QV)
        else:
            torch.testing.assert_close(
                text_QC, features_QV @ model.text_projection.weight.T + model.text_projection.bias
            )


def learning(model: Classifier, waveforms_BT: np.ndarray) -> set[str]:
    """Names of the parameters with a gradient after a backward through all outputs."""
    model.train()
    torch.manual_seed(0)
    audio_BC = model.encode_audio(torch.from_numpy(waveforms_BT))
    if model.reads_text:
        text_KC = F.normalize(model.encode_text(tokens(model)), dim=-1)
        audio_BC = model.scale() * F.normalize(audio_BC, dim=-1) @ text_KC.T
    F.cross_entropy(audio_BC, torch.arange(len(audio_BC)) % 4).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_learns_but_a_frozen_text_encoder(kind: SimilarityName | None, trained: bool, bert_folder: Path):
    """CNN14's last layer makes its embedding, which no map has seen; training freezes it (`freeze_unreached`)."""
    model = classifier(kind, bert_folder, trained=trained, spec_mask=MASKS, audio_dropout=0.1)
    expected = {name for name, _ in model.named_parameters()}
    if kind is not None:
        assert {"logit_scale", "text_projection.weight"} < expected
        expected -= {"encoder.network.fc1.weight", "encoder.network.fc1.bias"}
    frozen = set() if trained else {name for name in expected if name.startswith("text_encoder.")}
    assert bool(frozen) == (kind is not None and not trained)
    assert learning(model, clips()) == expected - frozen


@pytest.mark.parametrize("encoder", TINY[1:])
def test_every_weight_of_an_encoder_learns_from_its_map(encoder: str, bert_folder: Path):
    model = classifier("cscm", bert_folder, encoder=encoder, trained=True)
    assert learning(model, clips(4, 80_000)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("max_scale", [2.0, 7.3, 50.0, 100.0])
def test_the_scale_starts_where_it_shall_and_learns_at_both_bounds(max_scale: float, bert_folder: Path):
    for bound in (1.0, max_scale):
        model = classifier("mean", bert_folder, initial_scale=bound, max_scale=max_scale)
        assert model.scale().item() == pytest.approx(bound, rel=1e-6)
        before = model.logit_scale.detach().clone()
        model.clamp_logit_scale()
        assert torch.equal(model.logit_scale, before)
        model.scale().backward()
        assert model.logit_scale.grad is not None
        assert model.logit_scale.grad.item() == pytest.approx(bound, rel=1e-6)


def test_the_scale_is_kept_within_its_bounds(bert_folder: Path):
    model = classifier("mean", bert_folder, initial_scale=5.0, max_scale=50.0)
    for beyond, bound in ((math.log(1000), 50), (-0.5, 1)):
        with torch.no_grad():
            model.logit_scale.fill_(beyond)
        assert model.scale().item() == pytest.approx(bound, rel=1e-6)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(math.log(bound), rel=1e-6, abs=1e-9)
        assert model.logit_scale.requires_grad


def test_weights_depend_on_the_seed_alone_and_the_generator_is_left_alone(bert_folder: Path):
    for kind in KINDS:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        first = classifier(kind, bert_folder, seed=3).fingerprint()
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(8)
        assert classifier(kind, bert_folder, seed=3).fingerprint() == first
        assert classifier(kind, bert_folder, seed=4).fingerprint() != first


@pytest.mark.parametrize("encoder", TINY)
def test_a_seed_gives_the_same_encoder_whatever_follows_it(encoder: str, bert_folder: Path):
    first, *others = (classifier(kind, bert_folder, encoder=encoder).encoder.state_dict() for kind in KINDS)
    for other in others:
        assert all(torch.equal(tensor, first[name]) for name, tensor in other.items())


def test_the_layer_after_the_text_is_that_of_the_seed_whether_the_encoder_was_read_or_given(tmp_path: Path):
    """transformers draws a projection for a CLIP tower that has none, before it is thrown away."""
    read = classifier("mean", clip_tower(tmp_path / "clip"), pooling="eos")
    given = build_classifier(read.settings, LABELS, seed=0, text_encoder=TextEncoder(read.settings.text))
    assert read.text_projection is not None
    assert given.text_projection is not None
    assert torch.equal(read.text_projection.weight, given.text_projection.weight)
    assert read.fingerprint() == given.fingerprint()


def test_clip_s_tower_tells_labels_apart_by_every_letter(tmp_path: Path):
    tower = clip_tower(tmp_path / "clip")
    model = classifier("cscm", tower, pooling="eos", shared_width=16, labels=("bat", "cat"))
    assert model.text_projection is None
    bat_C, cat_C, rat_C = model.embed_labels(["bat", "cat", "rat"])
    assert min(np.abs(bat_C - cat_C).max(), np.abs(cat_C - rat_C).max()) > 1e-4


# Training


def seen(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The spectrograms that reach the network."""
    spectrograms: list[Tensor] = []
    encode = model.encoder.network.encode
    monkeypatch.setattr(model.encoder.network, "encode", lambda s: (spectrograms.append(s), encode(s))[1])
    return spectrograms


@pytest.mark.parametrize("kind", ["cscm", None])
def test_spectrograms_are_masked_in_training_only_and_as_the_seed_says(
    kind: SimilarityName | None, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    model, waveform_BT = classifier(kind, bert_folder, spec_mask=MASKS), torch.from_numpy(clips())
    spectrograms = seen(model, monkeypatch)
    plain_BNF = model.encoder.spectrogram(waveform_BT)
    model.eval().encode_audio(waveform_BT)
    model.train()
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        model.encode_audio(waveform_BT)
    torch.manual_seed(5)
    masked_BNF = mask_spectrogram(plain_BNF, MASKS)
    expected = (plain_BNF, masked_BNF, masked_BNF)
    assert all(torch.equal(*pair) for pair in zip(spectrograms, expected, strict=False))
    assert not torch.equal(masked_BNF, plain_BNF)
    assert not torch.equal(spectrograms[3], masked_BNF)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_dropout_is_of_training_alone(kind: SimilarityName | None, bert_folder: Path):
    still = {"channels": SMALL["network"]["channels"], "block_dropout": 0.0, "embedding_dropout": 0.0}
    dropped, whole = (classifier(kind, bert_folder, network=still, audio_dropout=share) for share in (0.5, 0.0))
    waveform_BT = torch.from_numpy(clips())
    assert not torch.allclose(dropped.train().encode_audio(waveform_BT), whole.train().encode_audio(waveform_BT))
    dropped.load_state_dict(whole.state_dict())
    assert torch.equal(dropped.eval().encode_audio(waveform_BT), whole.eval().encode_audio(waveform_BT))


def test_a_frozen_text_encoder_stays_in_evaluation_mode(bert_folder: Path):
    for trained in (False, True):
        model = classifier("mean", bert_folder, trained=trained).train()
        assert model.text_encoder is not None
        assert model.text_encoder.base.training == trained
        assert model.encode_text(tokens(model)).requires_grad  # the layer after it


# What it is


def test_a_fingerprint_tells_weights_labels_and_settings_apart(bert_folder: Path):
    def printed(kind: SimilarityName | None = "mean", change: float = 0.0, **changes: Any) -> str:
        model = classifier(kind, bert_folder, **changes)
        with torch.no_grad():
            next(model.encoder.network.parameters())[0] += change
        return model.fingerprint()

    found = [
        printed(),
        printed(change=1e-3),
        printed(seed=1),
        printed(labels=("dog", "cat", "rain", "the siren")),
        printed(labels=LABELS[::-1]),
        printed(prompts={"templates": ("{label}",)}),
        printed(prompts=ENSEMBLE),
        printed(label_words={"dog": "loud dog"}),
        printed(max_scale=200.0),
        printed(audio_dropout=0.1),
        printed(crop_seconds=2.0),
        printed(None),
        printed(None, labels=LABELS[::-1]),
    ]
    assert len(set(found)) == len(found)
    assert printed() == found[0]


def test_a_fingerprint_does_not_tell_where_things_were_read_from(bert_folder: Path, tmp_path: Path):
    shutil.copytree(bert_folder, tmp_path / "moved")
    for kind in ("cscm", None):
        model, moved = (classifier(kind, folder) for folder in (bert_folder, tmp_path / "moved"))
        start = EncoderSource(kind="tagger", location="there", encoder="cnn14_tiny")
        moved.settings = moved.settings.model_copy(update={"start": start})
        assert moved.fingerprint() == model.fingerprint()


def test_a_fingerprint_tells_tokenizers_apart(bert_folder: Path):
    model = classifier("mean", bert_folder)
    before = model.fingerprint()
    assert model.text_encoder is not None
    model.text_encoder.files["vocab.txt"] += b"x\n"
    assert model.fingerprint() != before


def test_the_settings_of_a_classifier_have_every_number_of_its_encoder(bert_folder: Path):
    model = classifier("mean", bert_folder)
    assert model.settings.network["channels"] == [4, 4, 4, 8, 8, 12]
    assert model.settings.front_end["hop_samples"] == 80
    assert model.settings.crop_seconds == 1.5
    assert model.settings.design == settings_of("mean", bert_folder).design
