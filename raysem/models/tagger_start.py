"""A tagger that keeps the classifier of a published checkpoint: its classes must be that checkpoint's, in its order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from raysem.errors import ConfigError
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.network import NUM_CLASSES
from raysem.models.importers.tagger import TaggerEncoder

AUDIOSET_ORDER = "fbd94e8a38594c56e778359b1bf3c59f4c669023df8780e7a234d87b93f6e463"
"""SHA-256 of the 527 ids of AudioSet's class_labels_indices.csv in its order, one a line: that of published outputs."""


def check_classes(published: WaveformEncoder, class_ids: Sequence[str], where: str) -> None:
    """ConfigError, beginning with `where`, unless the classes of a published classifier are these."""
    network: Any = published.network
    known = network.settings.num_classes
    if known != len(class_ids):
        raise ConfigError(f"{where} knows {known} classes, the tagger has {len(class_ids)}")
    if isinstance(published, TaggerEncoder):
        for place, (theirs, ours) in enumerate(zip(published.class_ids, class_ids, strict=True)):
            if theirs != ours:
                raise ConfigError(f"{where} knows {theirs!r} as class {place}, the tagger has {ours!r} there")
    elif known == NUM_CLASSES and hashlib.sha256("\n".join(class_ids).encode()).hexdigest() != AUDIOSET_ORDER:
        raise ConfigError(
            f"{where} knows AudioSet's classes in the order of class_labels_indices.csv, these are others"
        )
