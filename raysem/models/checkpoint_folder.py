"""What the checkpoint folders of all models share: `config.json`, written last, and weights that are checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from raysem import storage
from raysem.errors import ConfigError, DataError
from raysem.models.clap import state_digest

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
CLAP_FORMAT, TAGGER_FORMAT, CLASSIFIER_FORMAT = "raysem-clap-1", "raysem-tagger-1", "raysem-classifier-1"
_KINDS = {CLAP_FORMAT: "a CLAP model", TAGGER_FORMAT: "a tagger", CLASSIFIER_FORMAT: "a classifier"}


def read_config(location: str, form: str) -> dict[str, Any]:
    """What `config.json` of a checkpoint folder of this format holds.

    Raises:
        ConfigError: there is no checkpoint.
        DataError: it is of something else, or damaged.
    """
    file = storage.join(location, CONFIG_FILE)
    try:
        config = storage.read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{location}: no raysem checkpoint there ({CONFIG_FILE} is missing)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not JSON ({error})") from None
    found = config.get("format") if isinstance(config, dict) else type(config).__name__
    if isinstance(config, dict) and found == form:
        return config
    if isinstance(found, str) and found in _KINDS:
        raise DataError(f"{location}: is {_KINDS[found]} (format {found!r}), expected {_KINDS[form]} ({form!r})")
    raise DataError(f"{file}: expected a raysem checkpoint with format {form!r}, found {found!r}")


def read_weights(file: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; DataError where it is missing or damaged."""
    try:
        return load(storage.read_bytes(file))
    except FileNotFoundError:
        raise DataError(f"{file}: is missing, the checkpoint is not whole") from None
    except SafetensorError as error:
        raise DataError(f"{file}: not a readable safetensors file ({error})") from None


def write_weights(file: str, state: Mapping[str, Tensor]) -> None:
    """The tensors as a safetensors file."""
    storage.write_bytes(file, save(dict(state), {"format": "pt"}))


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as a file holds it: on the CPU, in the plain layout."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def check_weights_digest(state: Mapping[str, Tensor], expected: str, location: str) -> None:
    """DataError unless a model's whole state has the digest that `config.json` says."""
    found = state_digest(state)
    if found != expected:
        raise DataError(f"{location}: weights have sha256 {found}, {CONFIG_FILE} says {expected}")


def check_keys(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """DataError unless `state` has exactly the names and shapes of `expected`."""
    missing, left_over = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
    ]
    if missing or left_over or reshaped:
        raise DataError(
            f"{where}: weights do not fit: missing {missing}, left over {left_over}, of another shape {reshaped}"
        )
