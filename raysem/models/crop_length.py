"""Which length of clips an encoder can be trained on, told from its numbers alone."""

from __future__ import annotations

from raysem.audio.fbank import FbankSettings
from raysem.audio.logmel import LogMelSettings
from raysem.audio.passt_mel import PasstMelSettings
from raysem.models.ast import AstSettings
from raysem.models.cnn14 import MIN_FRAMES, Cnn14Settings
from raysem.models.hts_at import HtsAtSettings
from raysem.models.mobilenet_v3 import MobileNetV3Settings
from raysem.models.passt import PasstSettings
from raysem.models.registry import EncoderDesign, FrontEndSettings, NetworkSettings

Bounds = tuple[int, int | None]
"""The least and, where there is one, the most."""


def check_crop(design: EncoderDesign) -> None:
    """ValueError, beginning with `crop_seconds`, where the encoder cannot be trained on clips of that length."""
    num_samples = round(design.crop_seconds * design.front_end.sample_rate)
    _check(f"crop_seconds {design.crop_seconds:g}", num_samples, "samples", sample_bounds(design.front_end))
    frames = num_frames(design.front_end, num_samples)
    _check(f"crop_seconds {design.crop_seconds:g}", frames, "frames", frame_bounds(design.network))


def num_frames(front_end: FrontEndSettings, num_samples: int) -> int:
    """Frames of the spectrogram of a waveform."""
    match front_end:
        case FbankSettings():
            return front_end.num_frames
        case LogMelSettings():
            return front_end.num_frames(num_samples)
        case PasstMelSettings():
            return (num_samples - 1) // front_end.hop_samples + 1


def sample_bounds(front_end: FrontEndSettings) -> Bounds:
    """Lengths of waveforms that a front end takes."""
    match front_end:
        case FbankSettings():
            return front_end.window_samples, front_end.max_samples
        case LogMelSettings():
            return front_end.window_samples // 2 + 1, None
        case PasstMelSettings():
            return front_end.fft_samples // 2 + 2, None


def frame_bounds(network: NetworkSettings) -> Bounds:
    """Lengths of spectrograms that a network takes in training."""
    match network:
        case AstSettings():
            return network.num_frames, network.num_frames
        case Cnn14Settings():
            return MIN_FRAMES, None
        case HtsAtSettings():
            return 1, network.max_frames
        case MobileNetV3Settings():
            return 1, None
        case PasstSettings():
            # Patchout must leave a column.
            return network.patch_size + network.patchout_time * network.stride, network.max_frames


def _check(setting: str, number: int, unit: str, bounds: Bounds) -> None:
    least, most = bounds
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{setting} gives {number} {unit}, the encoder takes {wanted}")
