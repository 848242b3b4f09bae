"""CLIP's text tower in OpenAI's layout, as files of AudioCLIP and open_clip carry it, into Hugging Face's layout."""

# Shapes: V tokens of the vocabulary, L positions, W width, D width of the projection.

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from raysem import storage
from raysem.errors import ConfigError, DataError
from raysem.models.checkpoint_folder import CONFIG_FILE, WEIGHTS_FILE, check_keys, write_weights
from raysem.models.importers.pth import read_state_dict
from raysem.text.base import VOCABULARY_FILES
from raysem.text.encoder import read_small_files
from raysem.text.hub import model_folder

Activation = Literal["quick_gelu", "gelu"]

HEAD_WIDTH = 64  # of each attention head in all of OpenAI's and open_clip's text towers
# Left out on purpose: the other towers, scales of similarities, the causal mask, and numbers of OpenAI's archives.
LEFT_OUT = ("visual.", "audio.", "logit_scale", "attn_mask", "input_resolution", "context_length", "vocab_size")
# Name in the file: name in `CLIPTextModelWithProjection`; those of a layer within it.
RENAMED = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
RENAMED_IN_LAYER = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
PROJECTION = "text_projection"

_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")
_FIRST_LAYER = "transformer.resblocks.0.mlp.c_fc.weight"


def write_clip_text(
    location: str,
    folder: str,
    *,
    tokenizer: str,
    activation: Activation = "quick_gelu",
    entry: str = "state_dict",
    key: str = "location",
) -> None:
    """Write the text tower of a `.pt` file as a folder that `TextEncoder` reads with pooling `eos`.

    The file is a state dict, alone or under `entry`; OpenAI's own downloads are programs (TorchScript) and are
    refused: save their `state_dict()` first. `config.json` is written last, so a folder that has it is whole.

    Args:
        folder: local or remote.
        tokenizer: folder, URI or name on the Hub of a model with CLIP's tokenizer (`openai/clip-vit-base-patch32`):
            the file holds none.
        activation: `quick_gelu` for OpenAI's weights and what started from them, AudioCLIP among it; `gelu` for those
            that open_clip trained without it.
        key: dotted key of the setting that names the file, for messages.
    """
    state = read_state_dict(location, key=key, entry=entry)
    config, renamed = clip_text_from_state(state, activation=activation, where=location)
    with model_folder(tokenizer, key="tokenizer") as source:
        files = {name: content for name, content in read_small_files(source).items() if name != CONFIG_FILE}
    if not files.keys() & set(VOCABULARY_FILES):
        raise ConfigError(f"tokenizer: {tokenizer} has none: one of {', '.join(VOCABULARY_FILES)} is needed")
    storage.delete(storage.join(folder, CONFIG_FILE))
    for name, content in files.items():
        storage.write_bytes(storage.join(folder, name), content)
    write_weights(storage.join(folder, WEIGHTS_FILE), renamed)
    storage.write_text(storage.join(folder, CONFIG_FILE), config.to_json_string())


def clip_text_from_state(
    state: Mapping[str, Tensor], *, activation: Activation = "quick_gelu", where: str
) -> tuple[Any, dict[str, Tensor]]:
    """The configuration and the weights of a `CLIPTextModelWithProjection`; all numbers but two come from the shapes.

    The two are the width of a head, 64, and the end of a text, which is the last token of CLIP's vocabulary. Left out
    by name is `LEFT_OUT`; anything else that is missing, left over or of another shape is a DataError.
    """
    from transformers import CLIPTextModelWithProjection

    # Checkpoints of distributed training have this prefix.
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(LEFT_OUT)}
    config = _config(state, activation, where)
    renamed = _renamed(state, where)
    with torch.device("meta"):
        expected = CLIPTextModelWithProjection(config).state_dict()
    check_keys(renamed, expected, where)
    return config, renamed


def _config(state: Mapping[str, Tensor], activation: Activation, where: str) -> Any:
    from transformers import CLIPTextConfig

    matrices = ("token_embedding.weight", "positional_embedding", PROJECTION, _FIRST_LAYER)
    if missing := [name for name in matrices if name not in state or state[name].ndim != 2]:
        raise DataError(f"{where}: no text tower in OpenAI's layout, the matrices {missing} are missing")
    embedding_VW, position_LW, projection_WD, inner_first = (state[name] for name in matrices)
    vocabulary, width = embedding_VW.shape
    if width % HEAD_WIDTH:
        raise DataError(f"{where}: the text tower is {width} wide, expected a multiple of {HEAD_WIDTH} (one head)")
    return CLIPTextConfig(
        architectures=["CLIPTextModelWithProjection"],
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=len(inner_first),
        projection_dim=projection_WD.shape[1],
        num_hidden_layers=len({match[1] for match in map(_LAYER.fullmatch, state) if match}),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=len(position_LW),
        hidden_act=activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def _renamed(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == PROJECTION:
            renamed[f"{PROJECTION}.weight"] = tensor.T.contiguous()  # OpenAI multiplies by it from the right
        elif match := _LAYER.fullmatch(name):
            number, part, kind = match.groups()
            prefix = f"text_model.encoder.layers.{number}"
            if part == "attn.in_proj":
                if tensor.shape[0] % 3:
                    raise DataError(f"{where}: {name} {tuple(tensor.shape)} is not query, key and value in one")
                for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{prefix}.self_attn.{letter}_proj.{kind}"] = piece.contiguous()
            else:
                renamed[f"{prefix}.{RENAMED_IN_LAYER.get(part, part)}.{kind}"] = tensor.contiguous()
        else:
            renamed[RENAMED.get(name, name)] = tensor.contiguous()
    return renamed
