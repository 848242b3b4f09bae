"""EfficientAT's MobileNetV3 of any width: inverted residuals over a log-mel spectrogram."""

# Shapes: B clips in the batch, N frames, F mel bins, C channels, W width of the embedding, K classes.

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from raysem.config import Settings
from raysem.models.encoder import EncodedAudio, SpectrogramNetwork, check_spectrogram

FIRST_CHANNELS, CLASSIFIER_CHANNELS = 16, 1280
SQUEEZE_RATIO = 4


@dataclass(frozen=True)
class Block:
    """One inverted residual at width 1, as in MobileNetV3-Large's table."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


BLOCKS = (
    Block(3, 16, 16, False, False, 1),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False, 1),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False, 1),
    Block(5, 120, 40, True, False, 1),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 480, 112, True, True, 1),
    Block(3, 672, 112, True, True, 1),
    Block(5, 672, 160, True, True, 2),
    Block(5, 960, 160, True, True, 1),
    Block(5, 960, 160, True, True, 1),
)


class MobileNetV3Settings(Settings):
    """The numbers that tell one member of the family from another."""

    width: PositiveFloat = 1.0
    """Factor of all numbers of channels, which then are rounded to multiples of 8."""
    num_mels: PositiveInt = 128
    num_classes: PositiveInt | None = None
    """Outputs of the classifier; null leaves it out."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout within the classifier."""

    def channels(self, at_width_1: int) -> int:
        """A number of channels at this width."""
        return rounded_channels(at_width_1 * self.width)

    @property
    def embedding_width(self) -> int:
        """W, the width of what the encoder returns: six times the channels of the last block."""
        return 6 * self.channels(BLOCKS[-1].out)


class MobileNetV3(SpectrogramNetwork):
    """Log-mel spectrograms to the mean of the last feature map, which is 1/32 of the frames and of the mel bins.

    EfficientAT (Schmid et al. 2023; repository fschmid56/EfficientAT, models/mn): MobileNetV3-Large with one input
    channel, a sigmoid where that has a hard sigmoid, and a classifier of two layers. The names of parameters are those
    of the published checkpoints (`mn10_as` and its widths). Features lie channels-last in memory.
    """

    def __init__(self, settings: MobileNetV3Settings):
        super().__init__()
        self.settings = settings
        width = settings.channels(FIRST_CHANNELS)
        layers: list[nn.Module] = [ConvNormActivation(1, width, kernel=3, stride=2, activation=nn.Hardswish())]
        for block in BLOCKS:
            layers.append(InvertedResidual(width, block, settings))
            width = settings.channels(block.out)
        layers.append(ConvNormActivation(width, 6 * width, kernel=1, activation=nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        if settings.num_classes is not None:
            hidden = settings.channels(CLASSIFIER_CHANNELS)
            self.classifier = nn.Sequential(
                OrderedDict[str, nn.Module](
                    {
                        "2": nn.Linear(settings.embedding_width, hidden),
                        "3": nn.Hardswish(),
                        "4": nn.Dropout(settings.dropout),
                        "5": nn.Linear(hidden, settings.num_classes),
                    }
                )
            )
        self.apply(_start)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def embedding_width(self) -> int:
        """W."""
        return self.settings.embedding_width

    def encode(self, spectrogram_BNF: Tensor) -> EncodedAudio:
        """The mean of the last feature map, and the map."""
        check_spectrogram(spectrogram_BNF, num_mels=self.settings.num_mels)
        features_BCFN = spectrogram_BNF.transpose(1, 2).unsqueeze(1)
        features_BCFN = self.features(features_BCFN.contiguous(memory_format=torch.channels_last))
        return EncodedAudio(features_BCFN.mean(dim=(2, 3)), features_BCFN)

    def class_logits(self, encoded: EncodedAudio) -> Tensor:
        """AudioSet logits (B, K)."""
        return self.classifier(encoded.embedding_BW)


class ConvNormActivation(nn.Sequential):
    """Convolution without bias, batch norm, activation; the size stays but for the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ):
        padding = (kernel - 1) // 2
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=0.001, momentum=0.01),
        ]
        super().__init__(*layers, *([activation] if activation is not None else []))


class SqueezeExcitation(nn.Module):
    """Each channel times a gate that depends on the means of all channels."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = rounded_channels(channels // SQUEEZE_RATIO)
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, features_BCFN: Tensor) -> Tensor:
        gate_BC = torch.sigmoid(self.fc2(torch.relu(self.fc1(features_BCFN.mean(dim=(2, 3))))))
        return features_BCFN * gate_BC[:, :, None, None]


class ChannelGate(nn.Module):
    """The squeeze-and-excitation of a block; EfficientAT allows for several at once and trained one."""

    def __init__(self, channels: int):
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcitation(channels)])

    def forward(self, features_BCFN: Tensor) -> Tensor:
        return self.conc_se_layers[0](features_BCFN)


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise convolution, gate, 1x1 back; around it the identity where the size stays."""

    def __init__(self, in_channels: int, block: Block, settings: MobileNetV3Settings):
        super().__init__()
        expanded, out_channels = settings.channels(block.expanded), settings.channels(block.out)
        kind = nn.Hardswish if block.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(ConvNormActivation(in_channels, expanded, kernel=1, activation=kind()))
        layers.append(
            ConvNormActivation(
                expanded, expanded, kernel=block.kernel, stride=block.stride, groups=expanded, activation=kind()
            )
        )
        if block.squeeze:
            layers.append(ChannelGate(expanded))
        layers.append(ConvNormActivation(expanded, out_channels, kernel=1))
        self.block = nn.Sequential(*layers)
        self.is_residual = block.stride == 1 and in_channels == out_channels

    def forward(self, features_BCFN: Tensor) -> Tensor:
        changed_BCFN = self.block(features_BCFN)
        return changed_BCFN + features_BCFN if self.is_residual else changed_BCFN


def rounded_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
