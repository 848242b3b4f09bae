"""EfficientAT checkpoints (`mn10_as_mAP_471.pt` and its widths): the bare state dict of a MobileNetV3."""

from __future__ import annotations

from raysem.errors import ConfigError
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.network import NUM_CLASSES, load_network
from raysem.models.importers.pth import read_state_dict
from raysem.models.mobilenet_v3 import MobileNetV3Settings
from raysem.models.registry import WAVEFORM_ENCODERS, EncoderDesign, build_front_end


def load_efficientat(
    location: str,
    *,
    design: EncoderDesign = WAVEFORM_ENCODERS["mn10"],
    with_classes: bool = True,
    num_classes: int = NUM_CLASSES,
    key: str = "encoder.location",
) -> WaveformEncoder:
    """The encoder in evaluation mode; every tensor is used, anything else is a DataError.

    Args:
        design: width of the checkpoint; those trained with another hop or other mels (`mn10_as_hop_15`,
            `mn10_as_mels_64`) need them in the front end, for the file does not tell.
        with_classes: false leaves the classifier out.
    """
    if not isinstance(design.network, MobileNetV3Settings):
        raise ConfigError(f"{key}: EfficientAT's checkpoints are MobileNetV3s, not {type(design.network).__name__}")
    settings = design.network.model_copy(update={"num_classes": num_classes})
    state = read_state_dict(location, key=key)
    network = load_network(settings, state, with_classes=with_classes, where=location)
    return WaveformEncoder(build_front_end(design.front_end), network, crop_seconds=design.crop_seconds).eval()
