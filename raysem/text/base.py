"""The Hugging Face model behind a text encoder, and its tokenizer: read from a folder, strictly."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raysem.errors import ConfigError, DataError

# Copied as they are into a checkpoint: writing a tokenizer anew changes its files with each round.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")

# Left out on purpose: heads of the pretraining task and poolers (never used here), and position numbers, which older
# versions stored.
LEFT_OUT = (
    "pooler.",
    "cls.",
    "lm_head.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "embeddings.position_ids",
)


def read_config(folder: Path, name: str, key: str) -> Any:
    """The model's configuration; ConfigError where the folder holds no model and tokenizer that can be read.

    Args:
        name: the model in the user's words, for messages.
        key: dotted key of the setting that names it, for messages.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if not (folder / "config.json").exists():
        raise ConfigError(f"{key}: {name} has no config.json; it holds {sorted(p.name for p in folder.iterdir())}")
    if not any((folder / file).exists() for file in VOCABULARY_FILES):
        raise ConfigError(f"{key}: {name} has no tokenizer: one of {', '.join(VOCABULARY_FILES)} is needed")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, StrictDataclassError) as error:
        raise unreadable(name, key, error) from error


def read_tokenizer(folder: Path, name: str, key: str) -> Any:
    """The tokenizer that the folder's files describe."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise unreadable(name, key, error) from error


def read_base(folder: Path, config: Any, name: str, key: str, weights: Mapping[str, Tensor] | None) -> nn.Module:
    """An encoder such as BERT without its head and pooler; see `load_weights` for `weights` and errors."""
    from transformers import MODEL_MAPPING

    try:
        model_class: Any = MODEL_MAPPING[type(config)]
    except KeyError as error:
        raise unreadable(name, key, error) from error
    reads_tokens = model_class.main_input_name == "input_ids"
    if not reads_tokens or not hasattr(config, "hidden_size") or getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{key}: {name} is a {config.model_type} model, expected a text encoder such as BERT or CLIP")
    has_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    options = {"add_pooling_layer": False} if has_pooler else {}
    model, missing, left_over = load_weights(model_class, config, folder, name, weights, **options)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    left_over = [key for key in left_over if not key.removeprefix(prefix).startswith(LEFT_OUT)]
    require_none(name, missing, left_over)
    return model


def load_weights(
    model_class: Any, config: Any, folder: Path, name: str, weights: Mapping[str, Tensor] | None, **options: Any
) -> tuple[Any, list[str], list[str]]:
    """The model in float32, the names of the weights it lacks, and of those that it has no place for.

    Args:
        weights: by the model's own names, instead of those of the folder.

    Raises:
        DataError: the folder's weights are not there, cannot be read or have other shapes.
    """
    if weights is not None:
        model = model_class(config, **options)
        try:
            result = model.load_state_dict(dict(weights), strict=False)
        except RuntimeError as error:
            raise _unloadable(name, error) from error
        return model, list(result.missing_keys), list(result.unexpected_keys)
    try:
        model, info = model_class.from_pretrained(
            folder, config=config, local_files_only=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except pickle.UnpicklingError as error:
        raise pickled_code(name) from error
    except (ValueError, RuntimeError, OSError, EOFError) as error:
        raise _unloadable(name, error) from error
    return model, list(info["missing_keys"]), list(info["unexpected_keys"])


def require_none(name: str, missing: Sequence[str], left_over: Sequence[str]) -> None:
    """DataError that lists the weights, unless there are none of either kind."""
    if missing or left_over:
        raise DataError(
            f"{name}: weights do not fit the text encoder: missing {sorted(missing)}, left over {sorted(left_over)}"
        )


def longest_text(config: Any) -> int:
    """The most tokens that the model has positions for."""
    positions = int(getattr(config, "max_position_embeddings", 1 << 20))
    # RoBERTa's family numbers positions from pad_token_id + 1.
    is_roberta = "roberta" in str(getattr(config, "model_type", "")) or getattr(config, "model_type", "") == "mpnet"
    return positions - int(getattr(config, "pad_token_id", None) or 0) - 1 if is_roberta else positions


def unreadable(name: str, key: str, error: BaseException) -> ConfigError:
    """What to raise for a folder that transformers cannot make sense of."""
    return ConfigError(f"{key}: {name} cannot be read as a Hugging Face model ({_one_line(error)})")


def pickled_code(name: str) -> DataError:
    """What to raise for a `pytorch_model.bin` with more in it than tensors; torch's own advice is to run it anyway."""
    return DataError(f"{name}: the weights cannot be loaded (a pickle of more than tensors; refused, use safetensors)")


def _unloadable(name: str, error: BaseException) -> DataError:
    return DataError(f"{name}: the weights cannot be loaded ({_one_line(error)})")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
