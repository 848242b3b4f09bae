"""Classifiers over tiny encoders: each similarity module, and the baseline without text."""

from __future__ import annotations

import copy
import math
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
    NUM_SAMPLES,
    SHARED_WIDTH,
    SIMILARITIES,
    TEXT_WIDTH,
    classifier,
    clips,
    label_vectors,
    settings_of,
    settle,
    tokens,
)

from raysem.errors import ConfigError
from raysem.models.classifier import Classifier
from raysem.models.similarity import SimilarityName


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
