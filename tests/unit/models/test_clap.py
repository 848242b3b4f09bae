from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raysem.config import build
from raysem.errors import ConfigError
from raysem.models.clap import Clap, ClapSettings
from raysem.models.protocol import AudioTextModel, by_length, exact_evaluation
from raysem.models.start import build_clap

TEXTS = ["a dog barks", "rain falls in the rain", "siren", "this is the sound of a loud cat in the rain", "cat"]


def waveforms(model: Clap, num_clips: int = 9) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (num_clips, model.crop_samples)).astype(np.float32)


def test_the_defaults_are_those_of_clap_2022():
    settings = ClapSettings()
    assert (settings.audio_encoder, settings.embedding_width, settings.crop_samples) == ("cnn14", 1024, 220_500)
    assert settings.log_mel.num_frames(settings.crop_samples) == 690
    assert (settings.temperature, settings.max_logit_scale) == (0.07, 100)


def test_a_model_keeps_the_promises_of_the_protocol(tiny_clap: Clap):
    assert isinstance(tiny_clap, AudioTextModel)
    assert (tiny_clap.sample_rate, tiny_clap.crop_samples, tiny_clap.embedding_width) == (8000, 8000, 24)


def test_embeddings_are_unit_vectors_in_float32(tiny_clap: Clap):
    for embedding_BD in (tiny_clap.embed_waveforms(waveforms(tiny_clap)), tiny_clap.embed_texts(TEXTS)):
        assert embedding_BD.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embedding_BD, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_audio_embeddings_do_not_depend_on_the_batch_size(tiny_clap: Clap, batch_size: int):
    clips_BT = waveforms(tiny_clap)
    parts = [tiny_clap.embed_waveforms(clips_BT[at : at + batch_size]) for at in range(0, len(clips_BT), batch_size)]
    np.testing.assert_allclose(np.concatenate(parts), tiny_clap.embed_waveforms(clips_BT), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_text_embeddings_do_not_depend_on_the_batch_size_or_order(tiny_clap: Clap, batch_size: int):
    together_BD = tiny_clap.embed_texts(TEXTS)
    np.testing.assert_allclose(tiny_clap.embed_texts(TEXTS, batch_size), together_BD, rtol=0, atol=1e-6)
    np.testing.assert_allclose(tiny_clap.embed_texts(TEXTS[::-1], batch_size), together_BD[::-1], rtol=0, atol=1e-6)


def test_the_same_batch_gives_the_same_bits(tiny_clap: Clap):
    clips_BT = waveforms(tiny_clap)
    assert np.array_equal(tiny_clap.embed_waveforms(clips_BT), tiny_clap.embed_waveforms(clips_BT))
    assert np.array_equal(tiny_clap.embed_texts(TEXTS, 2), tiny_clap.embed_texts(TEXTS, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_embeddings_on_a_gpu_are_those_of_the_cpu_whatever_the_batch(tiny_clap: Clap):
    clips_BT = waveforms(tiny_clap)
    audio_BD, text_BD = tiny_clap.embed_waveforms(clips_BT), tiny_clap.embed_texts(TEXTS)
    tiny_clap.to("cuda")
    together_BD = tiny_clap.embed_waveforms(clips_BT)
    alone_BD = np.concatenate([tiny_clap.embed_waveforms(clip_T[None]) for clip_T in clips_BT])
    np.testing.assert_allclose(alone_BD, together_BD, rtol=0, atol=1e-6)
    np.testing.assert_allclose(together_BD, audio_BD, rtol=0, atol=1e-4)
    np.testing.assert_allclose(tiny_clap.embed_texts(TEXTS), text_BD, rtol=0, atol=1e-5)
    assert np.array_equal(together_BD, tiny_clap.embed_waveforms(clips_BT))


def test_embedding_leaves_the_modes_of_the_model_as_they_were(tiny_clap: Clap):
    tiny_clap.train()
    tiny_clap.audio_encoder.bn0.eval()
    modes = [module.training for module in tiny_clap.modules()]
    statistics = tiny_clap.audio_encoder.bn0.running_mean.clone()
    tiny_clap.embed_waveforms(waveforms(tiny_clap))
    assert [module.training for module in tiny_clap.modules()] == modes
    assert torch.equal(tiny_clap.audio_encoder.bn0.running_mean, statistics)


def test_exact_evaluation_puts_everything_back_after_an_error(tiny_clap: Clap):
    tiny_clap.train()
    before = torch.get_float32_matmul_precision()
    inside: dict[str, object] = {}

    def stop_inside() -> None:
        with exact_evaluation(tiny_clap):
            inside["training"] = tiny_clap.training
            inside["precision"] = torch.get_float32_matmul_precision()
            inside["gradients"] = torch.is_grad_enabled()
            raise RuntimeError("stop")

    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(RuntimeError, match="stop"):
            stop_inside()
        assert inside == {"training": False, "precision": "highest", "gradients": False}
        assert torch.get_float32_matmul_precision() == "medium"
        assert tiny_clap.training
    finally:
        torch.set_float32_matmul_precision(before)


def test_embedding_is_encoding_in_evaluation_mode(tiny_clap: Clap):
    clips_BT = waveforms(tiny_clap)
    embedded_BD = tiny_clap.embed_waveforms(clips_BT)
    tiny_clap.eval()
    audio_BD = tiny_clap.encode_audio(torch.from_numpy(clips_BT)).detach().numpy()
    np.testing.assert_allclose(audio_BD, embedded_BD, rtol=0, atol=1e-6)
    text_BD = tiny_clap.encode_text(tiny_clap.text_encoder.tokenize(TEXTS)).detach().numpy()
    np.testing.assert_allclose(text_BD, tiny_clap.embed_texts(TEXTS), rtol=0, atol=1e-6)


def test_kept_features_of_the_text_encoder_give_the_same_text(tiny_clap: Clap):
    features_BW = tiny_clap.text_features(TEXTS, 2)
    assert features_BW.shape == (5, 32)
    tiny_clap.eval()
    text_BD = tiny_clap.encode_text_features(torch.from_numpy(features_BW)).detach().numpy()
    np.testing.assert_allclose(text_BD, tiny_clap.embed_texts(TEXTS), rtol=0, atol=1e-6)


def test_every_weight_that_is_trained_has_a_gradient(tiny_settings: ClapSettings):
    """DDP waits for ever on one that has none."""
    text = tiny_settings.text.model_copy(update={"trained": True})
    model = build_clap(tiny_settings.model_copy(update={"text": text}), seed=0)
    clips_BT = torch.from_numpy(waveforms(model, 4))
    similarity_BB = model.encode_audio(clips_BT) @ model.encode_text(model.text_encoder.tokenize(TEXTS[:4])).T
    (model.scale() * similarity_BB).logsumexp(1).sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_weights_depend_on_the_seed_alone(tiny_settings: ClapSettings):
    torch.manual_seed(7)
    first, state = build_clap(tiny_settings, seed=3), torch.get_rng_state()
    torch.manual_seed(8)
    second, other = build_clap(tiny_settings, seed=3), build_clap(tiny_settings, seed=4)
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()
    torch.manual_seed(7)
    assert torch.equal(torch.get_rng_state(), state), "building a model draws nothing from the caller's generator"


def test_the_scale_starts_at_the_inverse_temperature(tiny_clap: Clap):
    assert tiny_clap.scale().item() == pytest.approx(1 / 0.07, rel=1e-6)


def test_the_scale_is_clamped_and_can_come_back(tiny_settings: ClapSettings):
    model = build_clap(tiny_settings.model_copy(update={"temperature": 0.007}), seed=0)
    assert model.scale().item() == pytest.approx(100, rel=1e-6)
    model.scale().backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == pytest.approx(100, rel=1e-6), "at the bound the gradient still counts"
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1000))
    assert model.scale().item() == pytest.approx(100, rel=1e-6)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(math.log(100), rel=1e-6)


def test_the_fingerprint_tells_weights_and_settings_but_not_where_files_were(
    tiny_clap: Clap, tiny_settings: ClapSettings, tmp_path
):
    import shutil

    shutil.copytree(tiny_settings.text.name, tmp_path / "moved")
    moved_text = tiny_settings.text.model_copy(update={"name": str(tmp_path / "moved")})
    moved = build_clap(tiny_settings.model_copy(update={"text": moved_text}), seed=0)
    assert moved.fingerprint() == tiny_clap.fingerprint()
    pooled = tiny_settings.text.model_copy(update={"pooling": "cls"})
    assert build_clap(tiny_settings.model_copy(update={"text": pooled}), seed=0).fingerprint() != moved.fingerprint()
    with torch.no_grad():
        moved.audio_projection.linear1.weight[0, 0] += 1e-6
    assert moved.fingerprint() != tiny_clap.fingerprint()


def test_the_fingerprint_tells_tokenizers_apart(tiny_clap: Clap):
    before = tiny_clap.fingerprint()
    tiny_clap.text_encoder.files["vocab.txt"] += b"x\n"
    assert tiny_clap.fingerprint() != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_channels": [1, 2]}, r"audio_channels needs 6 numbers, got \[1, 2\]"),
        ({"crop_seconds": 0.1}, "crop_seconds 0.1 gives 14 frames, needed are 32"),
        ({"audio_weights": "x.pth", "audio_encoder": "cnn14_tiny"}, "need audio_encoder cnn14"),
        ({"audio_encoder": "cnn15"}, "audio_encoder: expected 'cnn14' or 'cnn14_tiny', got 'cnn15'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        build(ClapSettings, changes)


def test_settings_are_frozen(tiny_settings: ClapSettings):
    with pytest.raises(ValidationError):
        tiny_settings.crop_seconds = 3.0  # type: ignore[misc]


@pytest.mark.parametrize("bad", [np.zeros(8000, np.float32), np.zeros((2, 8000), np.int16)])
def test_waveforms_of_another_kind_are_refused(tiny_clap: Clap, bad: np.ndarray):
    with pytest.raises(ValueError, match=r"expected float waveforms \(B, T\)"):
        tiny_clap.embed_waveforms(bad)


def test_batches_by_length_hold_every_text_once():
    texts = ["x" * (17 * i % 11) for i in range(23)]
    batches = list(by_length(texts, 4))
    assert sorted(index for batch in batches for index in batch) == list(range(23))
    lengths = [len(texts[index]) for batch in batches for index in batch]
    assert lengths == sorted(lengths)
    assert list(by_length([], 4)) == []
    with pytest.raises(ValueError, match="list of texts"):
        next(by_length("abc", 4))
