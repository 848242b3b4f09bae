"""PaSST checkpoints (`passt-s-f128-p16-s10-ap.476-swa.pt` and its kind): a bare state dict of 159 tensors."""

from __future__ import annotations

from raysem.errors import ConfigError
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.network import NUM_CLASSES, load_network, without
from raysem.models.importers.pth import read_state_dict
from raysem.models.passt import PasstSettings
from raysem.models.registry import WAVEFORM_ENCODERS, EncoderDesign, build_front_end


def load_passt(
    location: str,
    *,
    design: EncoderDesign = WAVEFORM_ENCODERS["passt_s"],
    with_classes: bool = True,
    num_classes: int = NUM_CLASSES,
    key: str = "encoder.location",
) -> WaveformEncoder:
    """The encoder in evaluation mode. Left out by name: the head of the distillation token, which PaSST never asks.

    Anything else that is missing or left over is a DataError.

    Args:
        design: stride and length of the checkpoint, e.g. `encoder_design("passt_s", stride=16)` for `...-s16-...`.
        with_classes: false leaves the classifier out.
    """
    if not isinstance(design.network, PasstSettings):
        raise ConfigError(f"{key}: expected the design of a PaSST, not {type(design.network).__name__}")
    settings = design.network.model_copy(update={"num_classes": num_classes})
    left_out = {"head_dist.weight": (num_classes, settings.width), "head_dist.bias": (num_classes,)}
    state = without(read_state_dict(location, key=key), left_out, location)
    network = load_network(settings, state, with_classes=with_classes, where=location)
    return WaveformEncoder(build_front_end(design.front_end), network, crop_seconds=design.crop_seconds).eval()
