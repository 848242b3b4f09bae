"""A CLAP model as a folder: `model.safetensors`, `config.json`, and the text encoder beside them.

Each weight stands in one file: the text encoder's in `text_encoder/model.safetensors`, in the layout of Hugging Face
with its configuration and tokenizer, all others in `model.safetensors`. The folder needs no network and no other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raysem import storage
from raysem.config import build, plain
from raysem.models import checkpoint_folder
from raysem.models.checkpoint_folder import (
    CLAP_FORMAT,
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_keys,
    check_weights_digest,
    read_weights,
    stored_state,
    write_weights,
)
from raysem.models.clap import Clap, ClapSettings, weights_digest
from raysem.models.stored_text import TEXT_PREFIX, LeftOutText, read_text_encoder, read_text_weights, write_text_encoder

FORMAT = CLAP_FORMAT


def save_model(folder: str, model: Clap, extra: Mapping[str, Any] | None = None) -> None:
    """Write a self-contained checkpoint to a local or remote folder; `extra` (JSON values) goes into `config.json`.

    `config.json` is written last, so a folder that has it is whole.
    """
    state = stored_state(model)
    storage.delete(storage.join(folder, CONFIG_FILE))
    write_text_encoder(folder, model.text_encoder, state)
    write_weights(storage.join(folder, WEIGHTS_FILE), state)
    config = {
        "format": FORMAT,
        "settings": plain(model.settings),
        "weights_sha256": weights_digest(model),
        "extra": dict(extra or {}),
    }
    storage.write_json(storage.join(folder, CONFIG_FILE), config)


def load_model(location: str, device: str | torch.device = "cpu", *, with_text: bool = True) -> Clap:
    """The model of a checkpoint folder, in evaluation mode.

    Args:
        with_text: false does not build the text encoder, which takes seconds and the device's memory: a model that
            embeds audio only. Its weights are read and checked all the same.

    Raises:
        ConfigError: there is no checkpoint.
        DataError: a file is missing or damaged, or its weights do not fit.
    """
    config = read_config(location)
    settings = build(ClapSettings, config["settings"], storage.join(location, CONFIG_FILE))
    learned = read_weights(storage.join(location, WEIGHTS_FILE))
    text: Any = read_text_encoder(location, settings.text) if with_text else LeftOutText(_text_width(learned))
    model = Clap(settings, text_encoder=text)
    load_learned_state(model, learned, where=location, with_text=False)
    left_out = {} if with_text else read_text_weights(location)
    check_weights_digest(model.state_dict() | left_out, config["weights_sha256"], location)
    return model.to(device).eval()


def _text_width(learned: Mapping[str, Tensor]) -> int:
    """W of the text encoder, by the layer that comes after it; 1 where that is missing, which is then an error."""
    weight_DW = learned.get("text_projection.linear1.weight")
    return weight_DW.shape[-1] if weight_DW is not None and weight_DW.ndim == 2 else 1


def read_config(location: str) -> dict[str, Any]:
    """What `config.json` of a checkpoint folder holds: format, settings, weights_sha256, extra."""
    return checkpoint_folder.read_config(location, FORMAT)


def learned_state(model: Clap) -> dict[str, Tensor]:
    """The state dict without a frozen text encoder: what a checkpoint of training has to hold."""
    state = model.state_dict()
    frozen = not model.settings.text.trained
    return {name: tensor for name, tensor in state.items() if not (frozen and name.startswith(TEXT_PREFIX))}


def load_learned_state(
    model: Clap, state: Mapping[str, Tensor], *, where: str = "state", with_text: bool | None = None
) -> None:
    """Bring back what `learned_state` gave; DataError lists what is missing, left over or of another shape."""
    with_text = model.settings.text.trained if with_text is None else with_text
    expected = {
        name: tensor for name, tensor in model.state_dict().items() if with_text or not name.startswith(TEXT_PREFIX)
    }
    check_keys(state, expected, where)
    model.load_state_dict(dict(state), strict=False)


def fingerprint(model: nn.Module) -> str:
    """Digest of all that decides an embedding: weights, settings, tokenizer."""
    return model.fingerprint()  # type: ignore[operator]
