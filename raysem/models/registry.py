"""The audio encoders by name: members of one family, told apart by numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from raysem.errors import ConfigError
from raysem.models.cnn14 import NUM_BLOCKS, Cnn14, Cnn14Settings

AudioEncoderName = Literal["cnn14", "cnn14_tiny"]

AUDIO_ENCODERS: dict[str, Cnn14Settings] = {
    # 80.75 M parameters with the 527 classes of PANNs, 79.67 M without.
    "cnn14": Cnn14Settings(),
    # 1.25 M parameters, for CPUs: a step of 64 clips of 250 frames costs about 0.55 core-seconds.
    "cnn14_tiny": Cnn14Settings(channels=(8, 16, 32, 64, 128, 256)),
}


def audio_encoder_settings(name: str, *, channels: Sequence[int] | None = None, **changes: Any) -> Cnn14Settings:
    """The settings of encoder `name`, with other channels or other fields where given."""
    if name not in AUDIO_ENCODERS:
        raise ConfigError(f"audio_encoder: no encoder {name!r}; there are {sorted(AUDIO_ENCODERS)}")
    if channels is not None:
        if len(channels) != NUM_BLOCKS:
            raise ConfigError(f"audio_channels: expected {NUM_BLOCKS} numbers, got {list(channels)}")
        changes["channels"] = tuple(channels)
    return Cnn14Settings.model_validate(AUDIO_ENCODERS[name].model_dump() | changes)


def build_audio_encoder(name: str, *, channels: Sequence[int] | None = None, **changes: Any) -> Cnn14:
    """A new audio encoder with random weights from torch's global generator."""
    return Cnn14(audio_encoder_settings(name, channels=channels, **changes))
