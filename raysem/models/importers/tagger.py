"""The encoder of a tagger that raysem itself has trained: a folder of `model.safetensors` and `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, PositiveFloat
from torch import Tensor

from raysem import storage
from raysem.config import Settings, build, plain
from raysem.errors import ConfigError, DataError
from raysem.models.checkpoint_folder import (
    CONFIG_FILE,
    TAGGER_FORMAT,
    WEIGHTS_FILE,
    check_keys,
    check_weights_digest,
    read_config,
    read_weights,
)
from raysem.models.encoder import SpectrogramNetwork, WaveformEncoder
from raysem.models.importers.network import load_network
from raysem.models.registry import WAVEFORM_ENCODERS, EncoderDesign, WaveformEncoderName, build_front_end

FRONT_END, NETWORK = "encoder.front_end.", "encoder.network."
LEFT_OUT = ("classifier.", "projection.")
# Other numbers of these are no other encoder: they matter in training alone.
TRAINING_ONLY = {
    "front_end": ("min_hz_jitter", "max_hz_jitter"),
    "network": (
        *("block_dropout", "embedding_dropout", "spec_augment", "drop_path"),
        *("patchout_time", "patchout_frequency"),
    ),
}
KERNELS = "kernels"  # computed or stored is as it is there


class TaggerEncoder(WaveformEncoder):
    """An encoder that knows the classes of the tagger it was trained in, in the order of the logits.

    They are those of `class_logits`, too, where the tagger kept the classifier of a published checkpoint.
    """

    def __init__(self, front_end: Any, network: SpectrogramNetwork, *, crop_seconds: float, class_ids: tuple[str, ...]):
        super().__init__(front_end, network, crop_seconds=crop_seconds)
        self.class_ids = class_ids


class _Encoder(Settings):
    """Of a tagger's settings what its encoder needs; `TaggerSettings` writes all numbers out."""

    model_config = ConfigDict(extra="ignore")

    encoder: WaveformEncoderName
    front_end: dict[str, Any]
    network: dict[str, Any]
    crop_seconds: PositiveFloat
    start_classes: bool = False


class _Config(Settings):
    model_config = ConfigDict(extra="ignore")

    settings: _Encoder
    class_ids: tuple[str, ...]
    weights_sha256: str


def load_tagger_encoder(
    location: str,
    *,
    encoder: WaveformEncoderName,
    design: EncoderDesign | None = None,
    with_classes: bool = True,
    key: str = "encoder.location",
) -> TaggerEncoder:
    """The encoder in evaluation mode. The tagger's own classifier and projection are left out by name.

    Args:
        encoder: what the tagger's must be.
        design: the numbers that it must have; those that matter in training alone are taken from here. None takes
            all of them as the tagger was trained.
        with_classes: false leaves out the published classifier, where the tagger kept it (`start_classes`).

    Raises:
        ConfigError: no tagger there, one with another encoder or other numbers, or one that kept no classifier.
        DataError: a checkpoint of another kind, a damaged one, or weights that are missing or left over.
    """
    file = storage.join(location, CONFIG_FILE)
    try:
        content = read_config(location, TAGGER_FORMAT)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    config = build(_Config, content, file)
    if config.settings.encoder != encoder:
        raise ConfigError(f"{key}: {location} is a tagger with encoder {config.settings.encoder}, not {encoder}")
    kept = config.settings.start_classes
    if with_classes and not kept:
        raise ConfigError(
            f"{key}: the tagger of {location} kept no published classifier (its start_classes is off), "
            "so there are no classes to take over from its encoder"
        )
    found = _written_design(config.settings, file)
    if design is not None:
        found = _with_training_of(design, found, f"{key}: {location}")
    front_end = build_front_end(found.front_end)
    whole = read_weights(storage.join(location, WEIGHTS_FILE))
    state = _by_part(whole, location)
    check_keys(state[FRONT_END], front_end.state_dict(), location)
    front_end.load_state_dict(state[FRONT_END])
    settings = found.network.model_copy(update={"num_classes": len(config.class_ids) if kept else None})
    network = load_network(settings, state[NETWORK], with_classes=with_classes, where=location)
    check_weights_digest(whole, config.weights_sha256, location)  # last: what does not fit is said by name
    return TaggerEncoder(front_end, network, crop_seconds=found.crop_seconds, class_ids=config.class_ids).eval()


def _written_design(settings: _Encoder, file: str) -> EncoderDesign:
    """What `config.json` says; a number that it does not know yet is that of the registry, as for `TaggerSettings`."""
    registered = WAVEFORM_ENCODERS[settings.encoder]
    front_end = registered.front_end.model_dump() | settings.front_end
    network = registered.network.model_dump() | settings.network
    try:
        return EncoderDesign(
            build(type(registered.front_end), front_end, "settings.front_end"),
            build(type(registered.network), network, "settings.network"),
            settings.crop_seconds,
        )
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _with_training_of(wanted: EncoderDesign, found: EncoderDesign, where: str) -> EncoderDesign:
    """`found` with the numbers of `wanted` that matter in training alone; ConfigError where others differ."""
    parts: dict[str, Any] = {}
    differing: list[str] = []
    for part, training_only in TRAINING_ONLY.items():
        theirs, ours = getattr(found, part), getattr(wanted, part)
        if type(theirs) is not type(ours):
            raise ConfigError(f"{where} has a {type(theirs).__name__}, expected a {type(ours).__name__}")
        numbers = plain(ours)
        parts[part] = theirs.model_copy(update={name: numbers[name] for name in training_only if name in numbers})
        differing += [
            f"{part}.{name} is {value} there and {numbers[name]} here"
            for name, value in plain(parts[part]).items()
            if value != numbers[name] and name != KERNELS
        ]
    if differing:
        raise ConfigError(f"{where} does not fit the settings: {', '.join(differing)}")
    return replace(found, **parts)


def _by_part(state: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of front end and network, without their prefixes."""
    others = sorted(name for name in state if not name.startswith((FRONT_END, NETWORK, *LEFT_OUT)))
    if others:
        raise DataError(f"{where}: weights do not fit: left over {others}")
    return {
        prefix: {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        for prefix in (FRONT_END, NETWORK)
    }
