"""Classifiers over tiny encoders: each similarity module, and the baseline without text."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from raysem.audio.spec_mask import SpecMaskSettings, mask_spectrogram
from raysem.config import build
from raysem.errors import ConfigError
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.pretrained import EncoderSource
from raysem.models.similarity import SimilarityName
from raysem.text.encoder import TextEncoder

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


@pytest.fixture(scope="module")
def settled(bert_folder: Path) -> dict[SimilarityName | None, Classifier]:
    return {kind: settle(classifier(kind, bert_folder)) for kind in KINDS}


@pytest.fixture(params=KINDS, ids=str)
def model(request: pytest.FixtureRequest, settled: dict[SimilarityName | None, Classifier]) -> Classifier:
    """Of each kind, the baseline too."""
    return copy.deepcopy(settled[request.param])


@pytest.fixture(params=SIMILARITIES)
def prompted(request: pytest.FixtureRequest, settled: dict[SimilarityName | None, Classifier]) -> Classifier:
    """Of each kind that reads text."""
    return copy.deepcopy(settled[request.param])


@pytest.fixture
def baseline(settled: dict[SimilarityName | None, Classifier]) -> Classifier:
    return copy.deepcopy(settled[None])


def label_vectors(model: Classifier, labels: Sequence[str] = LABELS) -> np.ndarray | None:
    return model.embed_labels(labels) if model.reads_text else None


def tokens(model: Classifier, texts: Sequence[str] = LABELS) -> dict[str, Tensor]:
    assert model.text_encoder is not None
    return model.text_encoder.tokenize(texts)


# What it computes


def test_audio_is_the_similarity_module_over_the_encoder_s_map(prompted: Classifier):
    waveform_BT = torch.from_numpy(clips())
    with torch.no_grad():
        audio_BC = prompted.encode_audio(waveform_BT)
        map_BWFN = prompted.encoder(waveform_BT).map_BWFN
        assert prompted.similarity is not None
        expected_BC = prompted.similarity(map_BWFN)
    assert map_BWFN.shape == (5, 12, 2, 4)
    assert (audio_BC.shape, audio_BC.dtype) == ((5, SHARED_WIDTH), torch.float32)
    assert torch.equal(audio_BC, expected_BC)
    assert audio_BC.std(dim=0).mean() > 1e-3, "the clips must differ"
    assert (prompted.sample_rate, prompted.crop_samples, prompted.num_labels) == (8000, NUM_SAMPLES, 4)


def test_the_baseline_is_a_linear_layer_over_the_encoder_s_embedding(baseline: Classifier):
    waveform_BT = torch.from_numpy(clips())
    with torch.no_grad():
        logits_BK = baseline.encode_audio(waveform_BT)
        embedding_BW = baseline.encoder(waveform_BT).embedding_BW
    assert baseline.classifier is not None
    expected_BK = embedding_BW @ baseline.classifier.weight.T + baseline.classifier.bias
    torch.testing.assert_close(logits_BK, expected_BK)
    assert (logits_BK.shape, logits_BK.dtype) == ((5, 4), torch.float32)
    probability_BK = baseline.score_waveforms(clips())
    np.testing.assert_allclose(probability_BK, torch.softmax(expected_BK, 1).detach().numpy(), rtol=0, atol=1e-6)
    assert not [name for name, _ in baseline.named_parameters() if name.startswith(("similarity", "text_", "logit_"))]


def test_hts_at_hands_its_square_to_cscm_and_its_unfolded_map_to_the_others(bert_folder: Path):
    waveform_BT = torch.from_numpy(clips(2, 80_000))
    for kind in SIMILARITIES:
        model = classifier(kind, bert_folder, encoder="hts_at_tiny").eval()
        assert model.similarity is not None
        with torch.no_grad():
            map_BWFN = model.encoder(waveform_BT).map_BWFN
            square_BWFN = model.encoder.network.image(map_BWFN)
            assert (map_BWFN.shape[2:], square_BWFN.shape[2:]) == ((4, 16), (8, 8))
            of_map_BC, of_square_BC = model.similarity(map_BWFN), model.similarity(square_BWFN)
            audio_BC = model.encode_audio(waveform_BT)
        assert torch.equal(audio_BC, of_square_BC if kind == "cscm" else of_map_BC)
        if kind != "mean":  # to which the two are one
            assert not torch.allclose(of_map_BC, of_square_BC, rtol=0, atol=1e-4), kind


def test_probabilities_are_the_softmax_of_the_scaled_cosines(prompted: Classifier):
    with torch.no_grad():
        audio_BC = prompted.encode_audio(torch.from_numpy(clips())).double().numpy()
        prompted.logit_scale.fill_(math.log(30))
    text_KC = prompted.embed_labels(LABELS)
    probability_BK = prompted.score_waveforms(clips(), text_KC)
    cosine_BK = audio_BC @ text_KC.T / np.linalg.norm(audio_BC, axis=1, keepdims=True)
    power_BK = np.exp(30 * cosine_BK)
    np.testing.assert_allclose(probability_BK, power_BK / power_BK.sum(axis=1, keepdims=True), rtol=0, atol=1e-5)
    assert np.array_equal(probability_BK.argmax(axis=1), cosine_BK.argmax(axis=1))


def test_probabilities_are_float32_and_sum_to_one(model: Classifier):
    probability_BK = model.score_waveforms(clips(), label_vectors(model))
    assert (probability_BK.shape, probability_BK.dtype) == ((5, 4), np.float32)
    np.testing.assert_allclose(probability_BK.sum(axis=1), 1, rtol=0, atol=1e-6)
    assert probability_BK.std(axis=0).max() > 1e-4, "the clips must differ"


def test_vectors_are_float32_under_autocast_and_near_the_exact_ones(model: Classifier):
    waveform_BT = torch.from_numpy(clips())
    with torch.no_grad():
        exact = [model.encode_audio(waveform_BT)]
        exact += [model.encode_text(tokens(model))] if model.reads_text else []
        with torch.autocast("cpu", torch.bfloat16):
            half = [model.encode_audio(waveform_BT)]
            half += [model.encode_text(tokens(model))] if model.reads_text else []
    for exact_QC, half_QC in zip(exact, half, strict=True):
        assert half_QC.dtype == torch.float32
        assert F.cosine_similarity(exact_QC, half_QC).min() > 0.97
        assert not torch.equal(exact_QC, half_QC)


def test_features_in_half_precision_become_float32_without_a_layer_after_them(bert_folder: Path):
    model = classifier("mean", bert_folder, shared_width=TEXT_WIDTH)
    assert model.encode_text_features(torch.ones(2, TEXT_WIDTH, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_row_depends_on_neither_its_batch_nor_the_call(model: Classifier):
    text_KC, clips_BT = label_vectors(model), clips()
    together_BK = model.score_waveforms(clips_BT, text_KC)
    alone_BK = np.concatenate([model.score_waveforms(clip_T[None], text_KC) for clip_T in clips_BT])
    np.testing.assert_allclose(alone_BK, together_BK, rtol=0, atol=1e-4)  # cosines to 1e-6, times a scale of 100
    assert np.array_equal(model.score_waveforms(clips_BT, text_KC), together_BK)


def test_scoring_leaves_modes_statistics_and_generator_as_they_were(model: Classifier):
    model.train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = torch.get_rng_state()
    model.score_waveforms(clips(), label_vectors(model))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert torch.equal(before, torch.get_rng_state())


# Labels and prompts


def test_a_label_is_the_mean_of_the_unit_vectors_of_its_prompts(bert_folder: Path):
    model = classifier("mean", bert_folder, prompts=ENSEMBLE).eval()
    text_KC = model.embed_labels(LABELS)
    assert (text_KC.shape, text_KC.dtype) == ((4, SHARED_WIDTH), np.float32)
    np.testing.assert_allclose(np.linalg.norm(text_KC, axis=1), 1, rtol=0, atol=1e-6)
    for label, text_C in zip(LABELS, text_KC, strict=True):
        mean_C = np.zeros(SHARED_WIDTH)
        for template in ENSEMBLE["templates"]:
            with torch.no_grad():
                vector_C = model.encode_text(tokens(model, [template.replace("{label}", label)]))[0].double().numpy()
            mean_C += vector_C / np.linalg.norm(vector_C) / 3
        np.testing.assert_allclose(text_C, mean_C / np.linalg.norm(mean_C), rtol=0, atol=1e-6)
    single_KC = classifier("mean", bert_folder, prompts={"templates": ("{label}",)}).embed_labels(LABELS)
    assert np.abs(single_KC - text_KC).max() > 1e-3, "the other prompts must count"


def test_the_vector_of_a_label_does_not_depend_on_its_company(prompted: Classifier):
    text_KC = prompted.embed_labels(LABELS)
    order = [2, 0, 3, 1]
    assert np.array_equal(prompted.embed_labels([LABELS[place] for place in order]), text_KC[order])
    assert np.array_equal(prompted.embed_labels(["a very loud dog that barks in the rain", "cat"])[1], text_KC[1])
    assert np.array_equal(prompted.embed_labels(["siren"]), text_KC[3:])


def test_embedding_labels_draws_nothing_and_leaves_a_trained_encoder_in_training(bert_folder: Path):
    model = classifier("mean", bert_folder, trained=True).train()
    assert model.text_encoder is not None
    before = torch.get_rng_state()
    first_KC = model.embed_labels(LABELS)
    assert torch.equal(before, torch.get_rng_state())
    assert model.text_encoder.base.training
    assert np.array_equal(first_KC, model.eval().embed_labels(LABELS)), "no dropout, whatever the mode"


def test_labels_in_another_order_permute_the_columns(prompted: Classifier):
    order = [2, 0, 3, 1]
    text_KC = prompted.embed_labels(LABELS)
    straight_BK = prompted.score_waveforms(clips(), text_KC)
    permuted_BK = prompted.score_waveforms(clips(), prompted.embed_labels([LABELS[place] for place in order]))
    np.testing.assert_allclose(permuted_BK, straight_BK[:, order], rtol=0, atol=1e-5)


def test_labels_other_than_those_of_training_can_be_scored(prompted: Classifier):
    """Odds between two labels do not depend on which others are there."""
    known_BK = prompted.score_waveforms(clips(), prompted.embed_labels(LABELS))
    more_BK = prompted.score_waveforms(clips(), prompted.embed_labels(["dog", "a loud cat", "siren in the rain"]))
    assert more_BK.shape == (5, 3)
    np.testing.assert_allclose(more_BK.sum(axis=1), 1, rtol=0, atol=1e-6)
    part_BK = prompted.score_waveforms(clips(), prompted.embed_labels(["dog", "cat"]))
    expected_BK = known_BK[:, :2] / known_BK[:, :2].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(part_BK, expected_BK, rtol=0, atol=1e-4)


def test_words_stand_for_a_label_in_its_prompts_alone(bert_folder: Path):
    words = {"dog": "loud dog in the rain"}
    model, plain = (classifier("mean", bert_folder, label_words=given) for given in (words, {}))
    assert model.labels == LABELS
    assert model.prompts(LABELS)[:2] == (("an audio clip of loud dog in the rain",), ("an audio clip of cat",))
    worded_KC, plain_KC = model.embed_labels(LABELS), plain.embed_labels(LABELS)
    assert np.array_equal(worded_KC[1:], plain_KC[1:])
    assert np.array_equal(worded_KC[:1], plain.embed_labels(["loud dog in the rain"]))
    assert np.abs(worded_KC[0] - plain_KC[0]).max() > 1e-3


def test_two_labels_with_one_prompt_are_refused_before_any_training(bert_folder: Path):
    message = "labels 'Dog_barks' and 'dog barks' have the same prompt 'an audio clip of dog barks'$"
    with pytest.raises(ConfigError, match=f"^prompts: {message}"):
        classifier("mean", bert_folder, labels=("Dog_barks", "dog barks", "cat"))
    with pytest.raises(ConfigError, match=f"^--labels: {message}"):
        classifier("mean", bert_folder).embed_labels(["Dog_barks", "dog barks"], key="--labels")
    with pytest.raises(ConfigError, match=r"have the same prompt 'an audio clip of cat'$"):
        classifier("mean", bert_folder, label_words={"dog": "cat"})
    assert classifier(None, bert_folder, labels=("Dog_barks", "dog barks")).num_labels == 2


def test_the_baseline_refuses_text(baseline: Classifier):
    assert not baseline.reads_text
    message = "^the baseline reads no text$"
    with pytest.raises(ValueError, match=message):
        baseline.embed_labels(LABELS)
    with pytest.raises(ValueError, match=message):
        baseline.embed_labels(["dog", "Dog"])
    with pytest.raises(ValueError, match=message):
        baseline.encode_text({"input_ids": torch.ones(1, 3)})
    with pytest.raises(ValueError, match=message):
        baseline.encode_text_features(torch.ones(1, TEXT_WIDTH))
    with pytest.raises(ValueError, match=message):
        baseline.scale()
    baseline.clamp_logit_scale()  # the loop asks every model
    with pytest.raises(ValueError, match="where, and only where, the classifier reads text"):
        baseline.score_waveforms(clips(), np.ones((4, SHARED_WIDTH), np.float32))


def test_what_is_no_clip_or_no_vector_of_a_label_is_refused(prompted: Classifier):
    text_KC = prompted.embed_labels(LABELS)
    with pytest.raises(ValueError, match="where, and only where, the classifier reads text"):
        prompted.score_waveforms(clips())
    for wrong in (text_KC[0], text_KC[:, :-1], text_KC[None]):
        with pytest.raises(ValueError, match=r"expected vectors of labels \(K, 24\), got \("):
            prompted.score_waveforms(clips(), wrong)
    with pytest.raises(ValueError, match=r"expected float waveforms \(B, T\)"):
        prompted.score_waveforms(clips()[0], text_KC)
    with pytest.raises(ValueError, match="expected a list of labels, got 'dog'"):
        prompted.embed_labels("dog")


@pytest.mark.parametrize("labels", [(), ("dog",), ("dog", "cat", "dog"), "dog"])
def test_fewer_than_two_different_labels_are_a_value_error(labels: Any, bert_folder: Path):
    for kind in ("mean", None):
        with pytest.raises(ValueError, match="expected at least 2 different labels, got "):
            Classifier(settings_of(kind, bert_folder), labels)


# Weights


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


def clip_tower(folder: Path) -> Path:
    """A CLIP tower without a projection, 16 wide, that spells every word."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
    )
    CLIPTextModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_are_those_of_the_cpu(model: Classifier):
    text_KC = label_vectors(model)
    expected_BK = model.score_waveforms(clips(), text_KC)
    model.to("cuda")
    moved_KC = label_vectors(model)
    np.testing.assert_allclose(model.score_waveforms(clips(), moved_KC), expected_BK, rtol=0, atol=1e-3)
    if text_KC is not None:
        assert moved_KC is not None
        np.testing.assert_allclose(moved_KC, text_KC, rtol=0, atol=1e-5)
