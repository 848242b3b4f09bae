"""A tagger as a folder: `model.safetensors` and `config.json`, with all that is needed to score clips.

The folder needs no network and no other file, the published checkpoint that the encoder started from included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveInt

from raysem import storage
from raysem.config import Settings, build, plain
from raysem.models.checkpoint_folder import (
    CONFIG_FILE,
    TAGGER_FORMAT,
    WEIGHTS_FILE,
    check_keys,
    check_weights_digest,
    read_config,
    read_weights,
    stored_state,
    write_weights,
)
from raysem.models.clap import weights_digest
from raysem.models.tagger import Tagger, TaggerSettings


class TaggerConfig(Settings):
    """What `config.json` holds."""

    format: Literal["raysem-tagger-1"]
    settings: TaggerSettings
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]
    text_width: PositiveInt | None
    weights_sha256: str
    extra: dict[str, Any]


def save_tagger(folder: str, tagger: Tagger, extra: Mapping[str, Any] | None = None) -> None:
    """Write a self-contained checkpoint to a local or remote folder; `extra` (JSON values) goes into `config.json`.

    `config.json` is written last, so a folder that has it is whole.
    """
    config = TaggerConfig(
        format=TAGGER_FORMAT,
        settings=tagger.settings,
        class_names=tagger.class_names,
        class_ids=tagger.class_ids,
        text_width=tagger.text_width,
        weights_sha256=weights_digest(tagger),
        extra=dict(extra or {}),
    )
    storage.delete(storage.join(folder, CONFIG_FILE))
    write_weights(storage.join(folder, WEIGHTS_FILE), stored_state(tagger))
    storage.write_json(storage.join(folder, CONFIG_FILE), plain(config))


def load_tagger(location: str, device: str | torch.device = "cpu") -> Tagger:
    """The tagger of a checkpoint folder, in evaluation mode; nothing is drawn from the caller's generator.

    Raises:
        ConfigError: there is no checkpoint, or `config.json` holds what it should not.
        DataError: it is of another kind of model, a file is missing or damaged, or the weights do not fit.
    """
    config = read_tagger_config(location)
    state = read_weights(storage.join(location, WEIGHTS_FILE))
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU
        tagger = Tagger(config.settings, config.class_names, config.class_ids, config.text_width)
    check_keys(state, tagger.state_dict(), location)
    tagger.load_state_dict(state)
    check_weights_digest(tagger.state_dict(), config.weights_sha256, location)
    return tagger.to(device).eval()


def read_tagger_config(location: str) -> TaggerConfig:
    """Settings, classes and `extra` of a checkpoint folder, without its weights."""
    return build(TaggerConfig, read_config(location, TAGGER_FORMAT), storage.join(location, CONFIG_FILE))
