"""What decides an audio encoder: a member of the registry, with other numbers where a recipe says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, PositiveFloat, model_validator

from raysem.audio.spec_mask import SpecMaskSettings
from raysem.config import Settings, SettingsT, build, plain
from raysem.errors import ConfigError
from raysem.models.crop_length import check_crop
from raysem.models.pretrained import EncoderSource, published_name
from raysem.models.registry import WAVEFORM_ENCODERS, EncoderDesign, WaveformEncoderName

NUM_CLASSES_KEY = "num_classes"
EncoderSettingsT = TypeVar("EncoderSettingsT", bound="EncoderSettings")


class EncoderSettings(Settings):
    """The audio encoder of a model. What is not said is as it was published; see `raysem.models.registry`."""

    encoder: WaveformEncoderName = "mn10"
    front_end: dict[str, Any] = Field(default_factory=dict)
    """Other numbers of the encoder's front end, by name."""
    network: dict[str, Any] = Field(default_factory=dict)
    """Other numbers of the encoder's network, by name."""
    start: EncoderSource | None = None
    """A checkpoint from which the encoder starts; null starts from random weights."""
    crop_seconds: PositiveFloat | None = None
    """Length of the clips; null takes that of the encoder."""
    spec_mask: SpecMaskSettings = SpecMaskSettings()
    """Bands and spans masked in each spectrogram, in training."""

    @model_validator(mode="after")
    def _check_encoder(self: EncoderSettingsT) -> EncoderSettingsT:
        if NUM_CLASSES_KEY in self.network:
            raise ValueError(f"network.{NUM_CLASSES_KEY} cannot be set: it is the number of classes")
        try:
            check_crop(self.design)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if self.network.get("spec_augment") and self.spec_mask.is_on:
            raise ValueError("network.spec_augment and spec_mask both mask the spectrogram: take one of them")
        if self.start is not None and published_name(self.start) != self.encoder:
            raise ValueError(
                f"start is a checkpoint of {published_name(self.start)}, encoder is {self.encoder}; "
                "start.encoder says it where a checkpoint is of another width"
            )
        return self

    @property
    def design(self) -> EncoderDesign:
        """The encoder in full, without a classifier of its own."""
        published = WAVEFORM_ENCODERS[self.encoder]
        return EncoderDesign(
            _changed(published.front_end, self.front_end, "front_end"),
            _changed(published.network, self.network, "network"),
            published.crop_seconds if self.crop_seconds is None else self.crop_seconds,
        )

    def resolved(self: EncoderSettingsT) -> EncoderSettingsT:
        """The same with every number of the encoder written out, whatever the registry says one day."""
        design = self.design
        network = plain(design.network)
        del network[NUM_CLASSES_KEY]
        written = {"front_end": plain(design.front_end), "network": network, "crop_seconds": design.crop_seconds}
        return self.model_copy(update=written)


def _changed(published: SettingsT, changes: Mapping[str, Any], where: str) -> SettingsT:
    return build(type(published), published.model_dump() | dict(changes), where)
