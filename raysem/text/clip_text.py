"""CLIP's text tower (Radford et al. 2021): read without the tower for images, one vector from its end-of-text token."""

# Shapes: B texts in the batch, W width of the encoder.

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raysem.errors import DataError
from raysem.text.base import load_weights, read_tokenizer, require_none, unreadable

PROJECTION = "text_projection.weight"
# Left out on purpose: the tower for images with its projection, the scale of CLIP's own similarities, and position
# numbers, which older versions stored.
LEFT_OUT = (
    "vision_model.",
    "visual_projection.",
    "logit_scale",
    "text_model.embeddings.position_ids",
    "embeddings.position_ids",
)

_MODEL, _TEXT_MODEL = "clip", "clip_text_model"
_TOWER = "text_model."


def is_clip(config: Any) -> bool:
    """Whether this is the configuration of a `CLIPModel`, a `CLIPTextModel` or a `CLIPTextModelWithProjection`."""
    return config.model_type in (_MODEL, _TEXT_MODEL)


def clip_text_config(config: Any) -> Any:
    """The configuration of the text tower, with the width of the projection that its checkpoint has."""
    if config.model_type == _MODEL:
        # The width within `text_config` may be a left-over default (512 beside 1024, say); CLIPModel never reads it.
        text_config = copy.deepcopy(config.text_config)
        text_config.projection_dim = config.projection_dim
        return text_config
    return config


def read_clip_tokenizer(folder: Path, name: str, key: str) -> Any:
    """CLIP's tokenizer; `vocab.json` and `merges.txt` are enough. See `_check_end` for what it must agree with."""
    from transformers import CLIPTokenizer

    # AutoTokenizer knows a `clip_text_model` only by this file.
    if (folder / "tokenizer_config.json").exists():
        return read_tokenizer(folder, name, key)
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise unreadable(name, key, error) from error


def read_clip_text(
    folder: Path, config: Any, tokenizer: Any, name: str, weights: Mapping[str, Tensor] | None
) -> nn.Module:
    """A `CLIPTextModelWithProjection`, or a `CLIPTextModel` where the checkpoint has no projection.

    A `CLIPModel` and what calls itself `CLIPTextModelWithProjection` must have one, a `CLIPTextModel` must not; where
    the configuration names no class, the weights decide.

    Args:
        weights: instead of those of the folder, by the names of either class.

    Raises:
        DataError: weights are missing, left over or of another shape, or the tokenizer ends texts with another token.
    """
    from transformers import CLIPTextModelWithProjection

    text_config = clip_text_config(config)
    _check_end(tokenizer, text_config, name)
    if weights is not None:
        weights = {_published_name(key): tensor for key, tensor in weights.items()}
    model, missing, left_over = load_weights(CLIPTextModelWithProjection, text_config, folder, name, weights)
    classes = config.architectures or ()
    if "CLIPTextModel" in classes and PROJECTION not in missing:
        left_over.append(PROJECTION)
    is_optional = config.model_type == _TEXT_MODEL and "CLIPTextModelWithProjection" not in classes
    has_projection = PROJECTION not in missing
    require_none(
        name,
        [key for key in missing if not (is_optional and key == PROJECTION)],
        [key for key in left_over if not key.startswith(LEFT_OUT)],
    )
    return model if has_projection else model.text_model


def clip_width(base: Any) -> int:
    """W: that of the projection, else of the hidden states."""
    return base.config.projection_dim if hasattr(base, "text_projection") else base.config.hidden_size


def end_of_text(base: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
    """text_BW: the last layer's normalised state at the end-of-text token, projected where there is a projection.

    transformers chooses the token: the first one with the configuration's `eos_token_id`; where that is 2, as in
    configurations of before 2023 whatever the vocabulary, the highest token number of the text, as OpenAI did.
    """
    output = base(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return output.text_embeds if "text_embeds" in output else output.pooler_output


def _published_name(key: str) -> str:
    """CLIPTextModel's own names lack the prefix under which all of CLIP's checkpoints store the tower."""
    return key if key.startswith((_TOWER, *LEFT_OUT, PROJECTION)) else _TOWER + key


def _check_end(tokenizer: Any, text_config: Any, name: str) -> None:
    """DataError unless texts end with the token at which the model pools.

    Where the two differ, transformers pools at the first token without a word; CLIP's attention is causal, so every
    text would have the same vector.
    """
    ids = tokenizer([""])["input_ids"][0]
    expected = max(ids, default=None) if text_config.eos_token_id == 2 else text_config.eos_token_id
    if ids[-1:] != [expected]:
        raise DataError(
            f"{name}: the model pools at token {expected} (eos_token_id {text_config.eos_token_id}), the tokenizer "
            f"writes an empty text as {ids}; texts must end with that token"
        )
