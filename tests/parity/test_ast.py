"""AST from a folder as Hugging Face publishes it, against transformers' own model and feature extractor."""

# Shapes: B clips, T samples, W width, K classes.

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from raysem.errors import ConfigError, DataError
from raysem.models.importers.ast import load_ast
from raysem.models.pretrained import EncoderSource, load_encoder

# A part of a name in transformers 5: that of the published files, which older versions wrote.
PUBLISHED = (
    (r"\.layers\.", ".encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_mel_bins": 32,
    "max_length": 200,
}


def published_shapes(width: int = 768, depth: int = 12) -> dict[str, tuple[int, ...]]:
    """The names of `MIT/ast-finetuned-audioset-10-10-0.4593`."""
    base = "audio_spectrogram_transformer"
    shapes: dict[str, tuple[int, ...]] = {
        f"{base}.embeddings.cls_token": (1, 1, width),
        f"{base}.embeddings.distillation_token": (1, 1, width),
        f"{base}.embeddings.position_embeddings": (1, 1214, width),
        f"{base}.embeddings.patch_embeddings.projection.weight": (width, 1, 16, 16),
        f"{base}.embeddings.patch_embeddings.projection.bias": (width,),
    }
    sizes = {f"attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
    sizes |= {"attention.output.dense": (width, width)}
    sizes |= {"intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}
    norms = [f"{base}.layernorm", "classifier.layernorm"]
    for layer in range(depth):
        name = f"{base}.encoder.layer.{layer}"
        for part, size in sizes.items():
            shapes |= {f"{name}.{part}.weight": size, f"{name}.{part}.bias": size[:1]}
        norms += [f"{name}.layernorm_before", f"{name}.layernorm_after"]
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes | {"classifier.dense.weight": (527, width), "classifier.dense.bias": (527,)}


def model(**config: object) -> ASTForAudioClassification:
    torch.manual_seed(0)
    made = ASTForAudioClassification(ASTConfig(num_labels=527, **config)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():  # fresh weights are near 0: all clips would be alike
            if parameter.dim() > 1:
                parameter.normal_(std=0.5 if "token" in name or "position" in name else parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def published(made: ASTForAudioClassification) -> dict[str, Tensor]:
    state = {}
    for name, tensor in made.state_dict().items():
        for pattern, replacement in PUBLISHED:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.contiguous()
    return state


def save(made: ASTForAudioClassification, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    made.config.save_pretrained(folder)
    config = made.config
    ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length).save_pretrained(folder)
    save_file(published(made), folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def small() -> ASTForAudioClassification:
    return model(**SMALL)


@pytest.fixture
def folder(small: ASTForAudioClassification, tmp_path: Path) -> Path:
    return save(small, tmp_path / "ast")


def clips(num_samples: int) -> Tensor:
    """Noise of different colours, so that the embeddings differ."""
    noise_BT = torch.randn(3, num_samples, generator=torch.Generator().manual_seed(3))
    noise_BT[1] = noise_BT[1].cumsum(0) / 50
    return noise_BT * 0.1


@pytest.mark.parametrize("num_samples", [32_000, 20_001])
def test_embedding_map_and_classes_are_those_of_transformers(
    small: ASTForAudioClassification, folder: Path, num_samples: int
):
    encoder, waveform_BT = load_ast(str(folder)), clips(num_samples)
    extractor = ASTFeatureExtractor.from_pretrained(folder)
    features = extractor([clip.numpy() for clip in waveform_BT], sampling_rate=16_000, return_tensors="np")
    with torch.no_grad():
        inputs = torch.from_numpy(np.stack(list(features["input_values"])))
        base = small.audio_spectrogram_transformer(inputs)
        expected_BK = small(inputs).logits
        encoded = encoder(waveform_BT)
        logits_BK = encoder.class_logits(encoded)
    assert base.pooler_output.std(dim=0).mean() > 0.01
    torch.testing.assert_close(encoded.embedding_BW, base.pooler_output, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits_BK, expected_BK, rtol=1e-3, atol=1e-3)
    assert encoded.map_BWFN.shape == (3, 24, 2, 19)
    torch.testing.assert_close(
        encoded.map_BWFN.flatten(2).transpose(1, 2), base.last_hidden_state[:, 2:], rtol=1e-3, atol=1e-3
    )


def test_a_checkpoint_of_the_published_names_and_shapes_is_read_whole(tmp_path: Path):
    """At full size: 203 tensors, 86.59 M numbers; one forward of one clip."""
    made = model()
    state = published(made)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_shapes()
    assert len(state) == 203
    assert round(sum(tensor.numel() for tensor in state.values()) / 1e6, 2) == 86.59
    encoder = load_encoder(EncoderSource(kind="ast", location=str(save(made, tmp_path / "ast"))))
    assert (encoder.sample_rate, encoder.crop_samples, encoder.embedding_width) == (16_000, 160_000, 768)
    ours, theirs = encoder.network.state_dict(), made.state_dict()
    for name, tensor in ours.items():
        their_name = name.replace("base.", "audio_spectrogram_transformer.", 1)
        their_name = their_name.replace("head.0.", "classifier.layernorm.").replace("head.1.", "classifier.dense.")
        assert torch.equal(tensor, theirs.pop(their_name)), name
    assert not theirs
    with torch.no_grad():
        encoded = encoder(clips(160_000)[:1])
    assert encoded.map_BWFN.shape == (1, 768, 12, 101)
    assert encoded.embedding_BW.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("classifier.dense.bias"), r"missing \['classifier.dense.bias'\], left over \[\]"),
        (
            lambda w: w.pop("audio_spectrogram_transformer.encoder.layer.1.attention.attention.key.weight"),
            r"missing \['audio_spectrogram_transformer.layers.1.attention.k_proj.weight'\]",
        ),
        (lambda w: w.update({"more.weight": torch.zeros(1)}), r"missing \[\], left over \['more.weight'\]"),
        (lambda w: w.update({"classifier.dense.bias": torch.zeros(3)}), "the weights cannot be loaded"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, change, message: str):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=message):
        load_ast(str(folder))


def test_the_classifier_can_stay_behind(folder: Path):
    whole, bare = load_ast(str(folder)), load_ast(str(folder), with_classes=False)
    extra = whole.state_dict().keys() - bare.state_dict().keys()
    assert {name.split(".")[1] for name in extra} == {"head"}
    with torch.no_grad():
        assert torch.equal(whole(clips(32_000)).embedding_BW, bare(clips(32_000)).embedding_BW)


def test_an_extractor_that_does_not_normalise_is_followed(folder: Path):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    plain_BNF = load_ast(str(folder)).spectrogram(clips(32_000))
    extractor = ASTFeatureExtractor.from_pretrained(folder)
    features = extractor([clip.numpy() for clip in clips(32_000)], sampling_rate=16_000, return_tensors="np")
    np.testing.assert_allclose(plain_BNF.numpy(), np.stack(list(features["input_values"])), rtol=0, atol=5e-3)


def test_a_folder_of_another_model_is_refused(bert_folder: Path):
    with pytest.raises(ConfigError, match="is a bert model, expected audio-spectrogram-transformer"):
        load_ast(str(bert_folder))


def test_an_ast_with_another_activation_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(ConfigError, match=r"not the AST that is supported: \{'hidden_act': 'relu'\}"):
        load_ast(str(folder))


def test_a_folder_without_a_feature_extractor_is_refused(folder: Path):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read as an AST"):
        load_ast(str(folder))
