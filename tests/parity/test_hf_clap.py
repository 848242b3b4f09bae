"""`HfClap` against transformers itself: its feature extractor, tokenizer and model, one clip at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

from raysem.errors import ConfigError, DataError
from raysem.models.importers.hf_clap import HfClap, load_hf_clap
from raysem.models.protocol import AudioTextModel
from raysem.models.teacher import TeacherSource, load_teacher

TEXTS = ["a dog barks", "this is the sound of rain in the rain", "siren"]


@pytest.fixture(scope="module", params=["rand_trunc", "fusion"])
def clap_folder(request: pytest.FixtureRequest, roberta_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ClapModel of a few hundred thousand weights, without and with fusion, and crops of two seconds."""
    folder = tmp_path_factory.mktemp(f"clap_{request.param}")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(roberta_folder / name, folder / name)
    fusion = request.param == "fusion"
    text = {
        "vocab_size": len(AutoTokenizer.from_pretrained(roberta_folder)),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 90,
        "pad_token_id": 1,
    }
    audio = {
        "spec_size": 256,
        "patch_embeds_hidden_size": 16,
        "hidden_size": 128,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [2, 2, 2, 2],
        "num_hidden_layers": 4,
        "enable_fusion": fusion,
    }
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24))
    with torch.no_grad():
        statistics = model.audio_model.audio_encoder.batch_norm
        statistics.running_mean.fill_(-30)
        statistics.running_var.fill_(200)
        for name, parameter in model.named_parameters():  # fresh weights are near 0: all embeddings would be alike
            if parameter.dim() > 1 and "embedding" not in name:
                parameter.mul_(4)
    model.save_pretrained(folder)
    ClapFeatureExtractor(max_length_s=2, truncation=request.param).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hf_clap(clap_folder: Path) -> HfClap:
    return load_hf_clap(str(clap_folder))


def clips(num_samples: int, num_clips: int = 3) -> np.ndarray:
    """A tone, noise and a click train."""
    time_T = np.arange(num_samples) / 48_000
    noise = np.random.default_rng(0).normal(0, 0.1, num_samples)
    rows = [np.sin(2 * np.pi * 880 * time_T), noise, np.where(time_T * 20 % 1 < 0.02, 0.8, 0) + noise / 100]
    return np.stack(rows[:num_clips]).astype(np.float32)


@pytest.mark.parametrize("num_samples", [96_000, 50_001, 30_000])
def test_audio_embeddings_are_those_of_transformers(clap_folder: Path, hf_clap: HfClap, num_samples: int):
    model = ClapModel.from_pretrained(clap_folder).eval()
    extractor = ClapFeatureExtractor.from_pretrained(clap_folder)
    expected = []
    for clip_T in clips(num_samples):
        features = extractor(clip_T, sampling_rate=48_000, return_tensors="pt")
        with torch.no_grad():  # no clip is longer: the extractor marks one at random where there is fusion
            output = model.get_audio_features(features["input_features"], torch.zeros(1, 1, dtype=torch.bool))
        expected.append(torch.nn.functional.normalize(output.pooler_output[0], dim=0).numpy())
    embedded_BD = hf_clap.embed_waveforms(clips(num_samples))
    np.testing.assert_allclose(embedded_BD, np.stack(expected), rtol=0, atol=1e-4)
    assert abs(embedded_BD[0] - embedded_BD[1]).max() > 0.01, "the clips must differ for this to say anything"


def test_text_embeddings_are_those_of_transformers(clap_folder: Path, hf_clap: HfClap):
    model, tokenizer = ClapModel.from_pretrained(clap_folder).eval(), AutoTokenizer.from_pretrained(clap_folder)
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            output = model.get_text_features(**tokenizer([text], return_tensors="pt"))
        expected.append(torch.nn.functional.normalize(output.pooler_output[0], dim=0).numpy())
    embedded_BD = hf_clap.embed_texts(TEXTS)
    np.testing.assert_allclose(embedded_BD, np.stack(expected), rtol=0, atol=2e-6)
    assert abs(embedded_BD[0] - embedded_BD[1]).max() > 1e-3
    assert hf_clap.scale().item() == pytest.approx(model.logit_scale_a.exp().item())


def test_embeddings_do_not_depend_on_the_batch(hf_clap: HfClap):
    clips_BT = clips(60_000)
    together_BD = hf_clap.embed_waveforms(clips_BT)
    alone_BD = np.concatenate([hf_clap.embed_waveforms(clip_T[None]) for clip_T in clips_BT])
    np.testing.assert_allclose(alone_BD, together_BD, rtol=0, atol=1e-6)
    np.testing.assert_allclose(hf_clap.embed_texts(TEXTS, 1), hf_clap.embed_texts(TEXTS), rtol=0, atol=1e-6)
    assert np.array_equal(together_BD, hf_clap.embed_waveforms(clips_BT))


def test_it_is_a_teacher(clap_folder: Path, hf_clap: HfClap):
    teacher = load_teacher(TeacherSource(kind="hf_clap", location=str(clap_folder)))
    assert isinstance(teacher, AudioTextModel)
    assert (teacher.sample_rate, teacher.crop_samples, teacher.embedding_width) == (48_000, 96_000, 24)
    assert teacher.fingerprint() == hf_clap.fingerprint()


def test_the_fingerprint_tells_weights_apart(clap_folder: Path, hf_clap: HfClap):
    other = load_hf_clap(str(clap_folder))
    with torch.no_grad():
        other.model.logit_scale_a.add_(1)
    assert other.fingerprint() != hf_clap.fingerprint()


def test_a_clip_longer_than_the_crop_is_refused(hf_clap: HfClap):
    with pytest.raises(ValueError, match="crops of 1 to 96000 samples, got 96001"):
        hf_clap.embed_waveforms(clips(96_001))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("logit_scale_a"), r"missing \['logit_scale_a'\], left over \[\]"),
        (lambda w: w.update(more=torch.zeros(1)), r"missing \[\], left over \['more'\]"),
        (lambda w: w.update(logit_scale_a=torch.zeros(3)), "the weights cannot be loaded"),
    ],
)
def test_weights_that_do_not_fit_are_refused(clap_folder: Path, tmp_path: Path, change, message: str):
    shutil.copytree(clap_folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=message):
        load_hf_clap(str(tmp_path / "m"))


def test_position_numbers_of_older_versions_are_left_out(clap_folder: Path, tmp_path: Path, hf_clap: HfClap):
    shutil.copytree(clap_folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(90)[None]
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert load_hf_clap(str(tmp_path / "m")).fingerprint() == hf_clap.fingerprint()


def test_a_folder_of_another_model_is_refused(bert_folder: Path):
    with pytest.raises(ConfigError, match="is a bert model, expected clap"):
        load_hf_clap(str(bert_folder))


def test_a_folder_without_a_feature_extractor_is_refused(clap_folder: Path, tmp_path: Path):
    shutil.copytree(clap_folder, tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read as a ClapModel"):
        load_hf_clap(str(tmp_path / "m"))
