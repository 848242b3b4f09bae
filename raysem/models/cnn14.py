"""CNN14 of PANNs, and smaller members of its family: six convolution blocks over a log-mel spectrogram."""

# Shapes: B clips in the batch, N frames, F mel bins, C channels, W width of the embedding, K classes.

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchaudio
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raysem.config import Settings
from raysem.models.encoder import EncodedAudio, SpectrogramNetwork

NUM_BLOCKS = 6
MIN_FRAMES = 32  # the first five blocks each halve the number of frames, and that of mel bins


class Cnn14Settings(Settings):
    """The numbers that tell one member of the family from another; the embedding is as wide as the last block."""

    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (
        64,
        128,
        256,
        512,
        1024,
        2048,
    )
    """Channels of the six convolution blocks."""
    num_mels: PositiveInt = 64
    num_classes: PositiveInt | None = None
    """Outputs of `fc_audioset`; null leaves the classifier out, as CLAP never uses it."""
    block_dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout after each convolution block."""
    embedding_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout before and after `fc1`."""
    spec_augment: bool = False
    """In training, mask two bands of up to 8 mel bins and two spans of up to 64 frames of each clip."""

    @property
    def embedding_width(self) -> int:
        """W, the width of what the encoder returns."""
        return self.channels[-1]


class ConvBlock(nn.Module):
    """Twice [3x3 convolution, batch norm, ReLU], then average pooling."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, features_BCNF: Tensor, *, pool: int) -> Tensor:
        features_BCNF = F.relu_(self.bn1(self.conv1(features_BCNF)))
        features_BCNF = F.relu_(self.bn2(self.conv2(features_BCNF)))
        return F.avg_pool2d(features_BCNF, pool) if pool > 1 else features_BCNF


class Cnn14(SpectrogramNetwork):
    """An audio encoder: `logmel_BNF` in, `embedding_BW` out, one row per clip in the same order.

    PANNs (Kong et al. 2020), repository qiuqiangkong/audioset_tagging_cnn, pytorch/models.py, class Cnn14. The names
    of parameters are those of the published checkpoints. Dropout and SpecAugment draw from torch's global generator.
    Features lie channels-last in memory: faster on CPUs for the few channels of the small members.
    """

    def __init__(self, settings: Cnn14Settings):
        super().__init__()
        self.settings = settings
        self.bn0 = nn.BatchNorm2d(settings.num_mels)
        widths = (1, *settings.channels)
        for block in range(NUM_BLOCKS):
            self.add_module(f"conv_block{block + 1}", ConvBlock(widths[block], widths[block + 1]))
        self.fc1 = _linear(settings.embedding_width, settings.embedding_width)
        if settings.num_classes is not None:
            self.fc_audioset = _linear(settings.embedding_width, settings.num_classes)
        # The weights as well: with one input channel the input alone does not decide.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def embedding_width(self) -> int:
        """W, the width of what the encoder returns."""
        return self.settings.embedding_width

    def forward(self, logmel_BNF: Tensor) -> Tensor:
        return self._embedding(self._feature_map(logmel_BNF))

    def encode(self, spectrogram_BNF: Tensor) -> EncodedAudio:
        """The embedding with the map it was pooled from, 1/32 of the frames and of the mel bins."""
        features_BCNF = self._feature_map(spectrogram_BNF)
        return EncodedAudio(self._embedding(features_BCNF), features_BCNF.transpose(2, 3))

    def class_logits(self, encoded: EncodedAudio) -> Tensor:
        """AudioSet logits (B, K); the model must have its classifier (`num_classes`)."""
        return self.fc_audioset(encoded.embedding_BW)

    def _feature_map(self, logmel_BNF: Tensor) -> Tensor:
        if logmel_BNF.dim() != 3 or logmel_BNF.shape[2] != self.settings.num_mels or logmel_BNF.shape[1] < MIN_FRAMES:
            raise ValueError(
                f"expected a log-mel batch (clips, at least {MIN_FRAMES} frames, {self.settings.num_mels} mels), "
                f"got {tuple(logmel_BNF.shape)}"
            )
        features_BCNF = self.bn0(logmel_BNF.transpose(1, 2).unsqueeze(3)).permute(0, 3, 2, 1)
        if self.training and self.settings.spec_augment:
            features_BCNF = _spec_augment(features_BCNF)
        features_BCNF = features_BCNF.contiguous(memory_format=torch.channels_last)
        for block in range(NUM_BLOCKS):
            conv_block = self.get_submodule(f"conv_block{block + 1}")
            features_BCNF = conv_block(features_BCNF, pool=2 if block < NUM_BLOCKS - 1 else 1)
            features_BCNF = F.dropout(features_BCNF, self.settings.block_dropout, self.training)
        return features_BCNF

    def _embedding(self, features_BCNF: Tensor) -> Tensor:
        features_BCN = features_BCNF.mean(dim=3)
        embedding_BW = features_BCN.amax(dim=2) + features_BCN.mean(dim=2)
        embedding_BW = F.dropout(embedding_BW, self.settings.embedding_dropout, self.training)
        embedding_BW = F.relu(self.fc1(embedding_BW))
        return F.dropout(embedding_BW, self.settings.embedding_dropout, self.training)

    def class_probabilities(self, embedding_BW: Tensor) -> Tensor:
        """AudioSet probabilities (B, K) from embeddings; the model must have its classifier (`num_classes`)."""
        return torch.sigmoid(self.fc_audioset(embedding_BW))


def _linear(in_width: int, out_width: int) -> nn.Linear:
    layer = nn.Linear(in_width, out_width)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _spec_augment(features_BCNF: Tensor) -> Tensor:
    """Two frequency and two time masks per clip, as PANNs trains; 0 is the mean of the data after `bn0`."""
    for width, axis in ((64, 2), (64, 2), (8, 3), (8, 3)):
        widest = min(width, features_BCNF.shape[axis] // 2)
        features_BCNF = torchaudio.functional.mask_along_axis_iid(features_BCNF, widest, 0.0, axis)
    return features_BCNF
