"""Where a tagger's encoder starts: the weights of a published checkpoint, which must be of the settings' numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from raysem.audio.logmel import LogMel
from raysem.config import plain
from raysem.errors import ConfigError
from raysem.models.ast import Ast
from raysem.models.checkpoint_folder import check_keys
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.network import NUM_CLASSES
from raysem.models.pretrained import load_encoder
from raysem.models.tagger_settings import NUM_CLASSES_KEY, TaggerSettings

AUDIOSET_ORDER = "fbd94e8a38594c56e778359b1bf3c59f4c669023df8780e7a234d87b93f6e463"
"""SHA-256 of the 527 ids of AudioSet's class_labels_indices.csv in its order, one a line: that of published outputs."""
# Of CNN14 in training alone: other numbers are no other network.
TRAINING_ONLY = ("block_dropout", "embedding_dropout", "spec_augment")


def published_encoder(settings: TaggerSettings, class_ids: Sequence[str], *, key: str = "start") -> WaveformEncoder:
    """The encoder of `settings.start`, with its classifier where `start_classes` keeps it.

    Args:
        key: dotted key of `start`, for messages.

    Raises:
        ConfigError: no such file, other numbers than the settings', or other classes than are to be kept.
        DataError: weights are missing, left over or of another shape.
    """
    assert settings.start is not None
    encoder = load_encoder(
        settings.start, design=settings.design, with_classes=settings.start_classes, key=f"{key}.location"
    )
    _check_numbers(encoder, settings, key)
    if settings.start_classes:
        _check_classes(encoder, class_ids, f"{key}_classes: {settings.start.location}")
    return encoder


def with_front_end_of(published: WaveformEncoder, settings: TaggerSettings) -> TaggerSettings:
    """The settings of a tagger that takes over the kernels of PANNs' and HTS-AT's files (see `LogMel`)."""
    front_end = published.front_end
    if not isinstance(front_end, LogMel) or front_end.settings.kernels == "computed":
        return settings
    return settings.model_copy(update={"front_end": settings.front_end | {"kernels": "stored"}})


def copy_weights(published: WaveformEncoder, encoder: WaveformEncoder, where: str) -> None:
    """Every tensor of the one into the other; anything that does not fit is a DataError."""
    for source, target in ((published.front_end, encoder.front_end), (published.network, encoder.network)):
        check_keys(source.state_dict(), target.state_dict(), where)
        target.load_state_dict(source.state_dict())


def _check_numbers(published: WaveformEncoder, settings: TaggerSettings, key: str) -> None:
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


def _check_classes(published: WaveformEncoder, class_ids: Sequence[str], where: str) -> None:
    network: Any = published.network
    known = network.settings.num_classes
    if known != len(class_ids):
        raise ConfigError(f"{where} knows {known} classes, the tagger has {len(class_ids)}")
    if known == NUM_CLASSES and hashlib.sha256("\n".join(class_ids).encode()).hexdigest() != AUDIOSET_ORDER:
        raise ConfigError(
            f"{where} knows AudioSet's classes in the order of class_labels_indices.csv, these are others"
        )
