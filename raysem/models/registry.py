"""The audio encoders by name: members of a few families, told apart by numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from raysem.audio.fbank import Fbank, FbankSettings
from raysem.audio.logmel import LogMel, LogMelSettings
from raysem.audio.passt_mel import PasstMel, PasstMelSettings
from raysem.errors import ConfigError
from raysem.models.ast import Ast, AstSettings
from raysem.models.cnn14 import NUM_BLOCKS, Cnn14, Cnn14Settings
from raysem.models.encoder import SpectrogramNetwork, WaveformEncoder
from raysem.models.hts_at import HtsAt, HtsAtSettings
from raysem.models.mobilenet_v3 import MobileNetV3, MobileNetV3Settings
from raysem.models.passt import Passt, PasstSettings

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


FrontEndSettings = FbankSettings | LogMelSettings | PasstMelSettings
NetworkSettings = AstSettings | Cnn14Settings | HtsAtSettings | MobileNetV3Settings | PasstSettings


@dataclass(frozen=True)
class EncoderDesign:
    """An encoder from waveforms on: the front end that the network was published with, and the network."""

    front_end: FrontEndSettings
    network: NetworkSettings
    crop_seconds: float = 10.0
    """Length of the clips it was trained on."""

    def __post_init__(self) -> None:
        if self.front_end.num_mels != self.network.num_mels:
            raise ConfigError(f"front end of {self.front_end.num_mels} mels, network of {self.network.num_mels}")
        if isinstance(self.network, AstSettings):
            frames = self.front_end.num_frames if isinstance(self.front_end, FbankSettings) else None
            if frames != self.network.num_frames:
                raise ConfigError(f"front end of {frames} frames, network of {self.network.num_frames}")


PANNS_LOG_MEL = LogMelSettings(sample_rate=32_000)
"""Of PANNs and HTS-AT."""
_SMALL_LOG_MEL = LogMelSettings(sample_rate=16_000, hop_samples=320, max_hz=8000.0)
_SMALL_PASST_MEL = PasstMelSettings(
    sample_rate=16_000, window_samples=800, num_mels=64, max_hz=7500.0, min_hz_jitter=0, max_hz_jitter=0
)

WaveformEncoderName = Literal[
    "cnn14",
    "mn04",
    "mn05",
    "mn10",
    "mn20",
    "mn30",
    "mn40",
    "ast",
    "hts_at",
    "passt_s",
    "cnn14_tiny",
    "mn_tiny",
    "ast_tiny",
    "hts_at_tiny",
    "passt_tiny",
]

WAVEFORM_ENCODERS: dict[str, EncoderDesign] = {
    "cnn14": EncoderDesign(PANNS_LOG_MEL, AUDIO_ENCODERS["cnn14"]),
    **{
        f"mn{tenths:02d}": EncoderDesign(PasstMelSettings(), MobileNetV3Settings(width=tenths / 10))
        for tenths in (4, 5, 10, 20, 30, 40)
    },
    "ast": EncoderDesign(FbankSettings(), AstSettings()),
    "hts_at": EncoderDesign(PANNS_LOG_MEL, HtsAtSettings()),
    "passt_s": EncoderDesign(PasstMelSettings(), PasstSettings()),
    # For CPUs: clips of 5 s at 16 kHz, 50 frames a second (AST: 100), 64 mels.
    # 0.3 to 1.4 M parameters with 527 classes, 5 to 80 million multiply-adds a clip (`raysem.models.complexity`).
    "cnn14_tiny": EncoderDesign(_SMALL_LOG_MEL, AUDIO_ENCODERS["cnn14_tiny"], crop_seconds=5.0),
    "mn_tiny": EncoderDesign(_SMALL_PASST_MEL, MobileNetV3Settings(width=0.2, num_mels=64), crop_seconds=5.0),
    "ast_tiny": EncoderDesign(
        FbankSettings(num_mels=64, num_frames=512),
        AstSettings(
            width=96,
            depth=4,
            num_heads=4,
            mlp_width=192,
            frequency_stride=16,
            time_stride=16,
            num_mels=64,
            num_frames=512,
        ),
        crop_seconds=5.0,
    ),
    "hts_at_tiny": EncoderDesign(
        _SMALL_LOG_MEL,
        HtsAtSettings(image_size=128, patch_width=24, depths=(2, 2, 2), num_heads=(2, 4, 8)),
        crop_seconds=5.0,
    ),
    "passt_tiny": EncoderDesign(
        _SMALL_PASST_MEL,
        PasstSettings(
            width=96,
            depth=4,
            num_heads=4,
            stride=16,
            num_mels=64,
            num_frames=250,
            patchout_time=4,
            patchout_frequency=1,
        ),
        crop_seconds=5.0,
    ),
}


def encoder_design(name: str, *, front_end: Mapping[str, Any] | None = None, **network: Any) -> EncoderDesign:
    """The numbers of encoder `name`, with other fields of its front end and of its network where given."""
    if name not in WAVEFORM_ENCODERS:
        raise ConfigError(f"encoder: no encoder {name!r}; there are {sorted(WAVEFORM_ENCODERS)}")
    design = WAVEFORM_ENCODERS[name]
    return EncoderDesign(
        type(design.front_end).model_validate(design.front_end.model_dump() | dict(front_end or {})),
        type(design.network).model_validate(design.network.model_dump() | network),
        design.crop_seconds,
    )


def build_waveform_encoder(name: str, *, front_end: Mapping[str, Any] | None = None, **network: Any) -> WaveformEncoder:
    """A new encoder with random weights from torch's global generator."""
    return assembled(encoder_design(name, front_end=front_end, **network))


def assembled(design: EncoderDesign) -> WaveformEncoder:
    """The encoder of a design, with random weights."""
    front_end, network = build_front_end(design.front_end), build_network(design.network)
    return WaveformEncoder(front_end, network, crop_seconds=design.crop_seconds)


def build_front_end(settings: FrontEndSettings) -> nn.Module:
    """waveform_BT to spectrogram_BNF."""
    match settings:
        case FbankSettings():
            return Fbank(settings)
        case LogMelSettings():
            return LogMel(settings)
        case PasstMelSettings():
            return PasstMel(settings)


def build_network(settings: NetworkSettings) -> SpectrogramNetwork:
    """The network of its settings, with random weights."""
    match settings:
        case AstSettings():
            return Ast(settings)
        case Cnn14Settings():
            return Cnn14(settings)
        case HtsAtSettings():
            return HtsAt(settings)
        case MobileNetV3Settings():
            return MobileNetV3(settings)
        case PasstSettings():
            return Passt(settings)
