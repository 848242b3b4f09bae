"""Where a model's encoder starts: the weights of a checkpoint, which must be of the settings' numbers."""

from __future__ import annotations

from typing import Any

from raysem.audio.logmel import LogMel
from raysem.config import plain
from raysem.errors import ConfigError
from raysem.models.ast import Ast
from raysem.models.checkpoint_folder import check_keys
from raysem.models.encoder import WaveformEncoder
from raysem.models.encoder_settings import NUM_CLASSES_KEY, EncoderSettings, EncoderSettingsT
from raysem.models.pretrained import load_encoder

# Of CNN14 in training alone: other numbers are no other network.
TRAINING_ONLY = ("block_dropout", "embedding_dropout", "spec_augment")


def published_encoder(settings: EncoderSettings, *, with_classes: bool = False, key: str = "start") -> WaveformEncoder:
    """The encoder of `settings.start`, with the classifier of its file where that is asked for.

    Args:
        key: dotted key of `start`, for messages.

    Raises:
        ConfigError: no such file, or other numbers than the settings'.
        DataError: weights are missing, left over or of another shape.
    """
    assert settings.start is not None
    encoder = load_encoder(settings.start, design=settings.design, with_classes=with_classes, key=f"{key}.location")
    _check_numbers(encoder, settings, key)
    return encoder


def with_front_end_of(published: WaveformEncoder, settings: EncoderSettingsT) -> EncoderSettingsT:
    """The settings of a model that takes over the kernels of PANNs' and HTS-AT's files (see `LogMel`)."""
    front_end = published.front_end
    if not isinstance(front_end, LogMel) or front_end.settings.kernels == "computed":
        return settings
    return settings.model_copy(update={"front_end": settings.front_end | {"kernels": "stored"}})


def copy_weights(published: WaveformEncoder, encoder: WaveformEncoder, where: str) -> None:
    """Every tensor of the one into the other; anything that does not fit is a DataError."""
    for source, target in ((published.front_end, encoder.front_end), (published.network, encoder.network)):
        check_keys(source.state_dict(), target.state_dict(), where)
        target.load_state_dict(source.state_dict())


def _check_numbers(published: WaveformEncoder, settings: EncoderSettings, key: str) -> None:
    """What the file says of itself must be what the settings say; where weights alone tell, `copy_weights` does."""
    network: Any = published.network
    pairs: dict[str, tuple[Any, Any]] = {"network": (network.settings, settings.design.network)}
    if isinstance(network, Ast):
        pairs["front_end"] = (published.front_end.settings, settings.design.front_end)
    assert settings.start is not None
    for section, (theirs, ours) in pairs.items():
        if type(theirs) is not type(ours):
            raise ConfigError(f"{key}: {settings.start.location} is no {settings.encoder}")
        wanted = plain(ours)
        others = [
            f"{section}.{name} is {value} there and {wanted[name]} here"
            for name, value in plain(theirs).items()
            if value != wanted[name] and name not in (NUM_CLASSES_KEY, *TRAINING_ONLY)
        ]
        if others:
            raise ConfigError(f"{key}: {settings.start.location} does not fit the settings: {', '.join(others)}")
