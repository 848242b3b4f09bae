"""AST checkpoints in the layout of Hugging Face: `ASTForAudioClassification` by name or folder."""

from __future__ import annotations

import pickle
from typing import Any

import torch

from raysem.audio.fbank import FbankSettings
from raysem.errors import ConfigError, DataError
from raysem.models.ast import AstSettings
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.network import load_network
from raysem.models.registry import EncoderDesign, build_front_end
from raysem.text.base import pickled_code
from raysem.text.encoder import quiet_transformers
from raysem.text.hub import model_folder

MODEL_TYPE = "audio-spectrogram-transformer"
BASE, HEAD = "audio_spectrogram_transformer.", {"classifier.layernorm.": "head.0.", "classifier.dense.": "head.1."}
# What decides a result and is no number in `AstSettings`.
FIXED = ("hidden_act", "layer_norm_eps", "qkv_bias")


def load_ast(
    name: str, *, with_classes: bool = True, crop_seconds: float = 10.0, key: str = "encoder.location"
) -> WaveformEncoder:
    """The encoder in evaluation mode; its numbers and those of its front end are the folder's.

    Args:
        name: folder, URI, or name on the Hub (`MIT/ast-finetuned-audioset-10-10-0.4593`).
        with_classes: false leaves the classifier out.

    Raises:
        ConfigError: the folder is missing, or of another kind of model.
        DataError: weights are missing, left over or of another shape.
    """
    from transformers import ASTFeatureExtractor, ASTForAudioClassification, AutoConfig

    with model_folder(name, key=key) as folder, quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if config.model_type != MODEL_TYPE:
                raise ConfigError(f"{key}: {name} is a {config.model_type} model, expected {MODEL_TYPE}")
            extractor = ASTFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key}: {name} cannot be read as an AST ({_one_line(error)})") from error
        design = EncoderDesign(_front_end(extractor), _settings(config, f"{key}: {name}"), crop_seconds)
        try:
            loaded: Any = ASTForAudioClassification.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except pickle.UnpicklingError as error:
            raise pickled_code(name) from error
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            raise DataError(f"{name}: the weights cannot be loaded ({_one_line(error)})") from error
    model, info = loaded
    missing, left_over = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or left_over:
        raise DataError(f"{name}: weights do not fit an AST: missing {missing}, left over {left_over}")
    state = {}
    for published, tensor in model.state_dict().items():
        for prefix, ours in ({BASE: "base."} | HEAD).items():
            if published.startswith(prefix):
                state[ours + published.removeprefix(prefix)] = tensor
    network = load_network(design.network, state, with_classes=with_classes, where=name)
    return WaveformEncoder(build_front_end(design.front_end), network, crop_seconds=crop_seconds).eval()


def _settings(config: Any, where: str) -> AstSettings:
    settings = AstSettings(
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        patch_size=config.patch_size,
        frequency_stride=config.frequency_stride,
        time_stride=config.time_stride,
        num_mels=config.num_mel_bins,
        num_frames=config.max_length,
        num_classes=config.num_labels,
    )
    ours = settings.config()
    other = {name: getattr(config, name) for name in FIXED if getattr(config, name) != getattr(ours, name)}
    if other:
        raise ConfigError(f"{where}: not the AST that is supported: {other}")
    return settings


def _front_end(extractor: Any) -> FbankSettings:
    normal = {"mean": extractor.mean, "deviation": extractor.std} if extractor.do_normalize else {}
    # (x - 0) / (2 * 0.5) for an extractor that does not normalise.
    return FbankSettings(
        sample_rate=extractor.sampling_rate,
        window_samples=extractor.sampling_rate * 25 // 1000,
        hop_samples=extractor.sampling_rate * 10 // 1000,
        num_mels=extractor.num_mel_bins,
        num_frames=extractor.max_length,
        **(normal or {"mean": 0.0, "deviation": 0.5}),
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
