"""What turns an encoder's map into the vector that is compared with the texts of the classes."""

# Shapes: B clips, W width of the map, F rows of frequency and N frames (columns of time) of the map, C width of the
# shared space.

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from raysem.config import Settings
from raysem.models.cbam import Cbam

SimilarityName = Literal["cscm", "seq_lstm", "seq_transf", "mean"]


class SimilaritySettings(Settings):
    """The similarity module of a classifier: a row of SemanticAC's ablation. The defaults are the paper's choice."""

    name: SimilarityName = "cscm"
    """cscm: attention and convolutions over the map; seq_lstm, seq_transf: over its frames; mean: a linear layer."""
    cbam_reduction: PositiveInt = 16
    """Of cscm only: the width of the map over that of the hidden layer of the channel attention."""
    num_layers: PositiveInt = 4
    """Of seq_transf only: layers of the transformer; seq_lstm has one."""
    num_heads: PositiveInt = 8
    """Of seq_transf only: heads of each layer; they must divide the shared width."""
    max_frames: PositiveInt = 1024
    """Of seq_transf only: frames for which there are position embeddings."""


def build_similarity(settings: SimilaritySettings, width: int, shared_width: int) -> nn.Module:
    """A module map_BWFN -> audio_BC, not normalised, with random weights from torch's global generator.

    Maps may have any number of rows and columns. `cscm` is for the square of an encoder that folds time into one
    (`SpectrogramNetwork.image`), the others for the map itself, whose columns run through time.

    Args:
        width: W, of the map.
        shared_width: C, of the space that audio and text share.
    """
    match settings.name:
        case "cscm":
            return Cscm(width, shared_width, reduction=settings.cbam_reduction)
        case "seq_lstm":
            return SequenceLstm(width, shared_width)
        case "seq_transf":
            return SequenceTransformer(
                width,
                shared_width,
                num_layers=settings.num_layers,
                num_heads=settings.num_heads,
                max_frames=settings.max_frames,
            )
        case "mean":
            return LinearOfMean(width, shared_width)


class Cscm(nn.Module):
    """CBAM, 3x3 convolution W-W with batch norm and ReLU, 1x1 convolution W-C, mean over the map.

    SemanticAC (Xiao et al. 2023), its CSCM. [INFER]: the paper names convolutional attention and a CNN block with 3x3
    and 1x1 kernels; CBAM for the former, the widths, batch norm, ReLU and the mean at the end are our reading.
    """

    def __init__(self, width: int, shared_width: int, *, reduction: int = 16):
        super().__init__()
        self.attention = Cbam(width, reduction=reduction)
        # no bias: batch norm would take it away again
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.projection = nn.Conv2d(width, shared_width, kernel_size=1)

    def forward(self, map_BWFN: Tensor) -> Tensor:
        _check_map(map_BWFN, self.conv.in_channels)
        map_BWFN = F.relu(self.norm(self.conv(self.attention(map_BWFN))))
        # a 1x1 convolution of the mean is the mean of the convolution, at the cost of one place
        return self.projection(map_BWFN.mean(dim=(2, 3), keepdim=True)).flatten(1)


class LinearOfMean(nn.Module):
    """A linear layer W-C of the mean over the map.

    SemanticAC's ablation with the texts as its only change. [INFER]: it does not say what stands in the module's place.
    """

    def __init__(self, width: int, shared_width: int):
        super().__init__()
        self.projection = nn.Linear(width, shared_width)

    def forward(self, map_BWFN: Tensor) -> Tensor:
        _check_map(map_BWFN, self.projection.in_features)
        return self.projection(map_BWFN.mean(dim=(2, 3)))


class SequenceLstm(nn.Module):
    """Each frame to C, one LSTM layer C-C and its residual, mean over frames.

    seqLSTM of CLIP4Clip (Luo et al. 2021; repository ArrowLuo/CLIP4Clip, modules/modeling.py) for SemanticAC's
    ablation. [INFER]: frames are the columns of the map, averaged over frequency, and a linear layer brings them to C;
    the mean is over frames as they are, where CLIP4Clip first gives each the length 1. There is no padding to mask.
    """

    def __init__(self, width: int, shared_width: int):
        super().__init__()
        self.projection = nn.Linear(width, shared_width)
        self.lstm = nn.LSTM(shared_width, shared_width, batch_first=True)

    def forward(self, map_BWFN: Tensor) -> Tensor:
        _check_map(map_BWFN, self.projection.in_features)
        frames_BNC = self.projection(_frames(map_BWFN))
        return (frames_BNC + self.lstm(frames_BNC)[0]).mean(dim=1)


class SequenceTransformer(nn.Module):
    """Each frame to C, plus its position a transformer encoder, the residual, mean over frames.

    seqTransf of CLIP4Clip (Luo et al. 2021; repository ArrowLuo/CLIP4Clip, modules/modeling.py) for SemanticAC's
    ablation: CLIP's layers, norm first, with its approximate GELU and without dropout. The residual goes around the
    whole transformer, from frames without their positions. [INFER]: frames and their mean as in `SequenceLstm`; layers
    and positions start at random, where CLIP4Clip takes those of CLIP's text tower.
    """

    def __init__(
        self, width: int, shared_width: int, *, num_layers: int = 4, num_heads: int = 8, max_frames: int = 1024
    ):
        if shared_width % num_heads:
            raise ValueError(f"similarity.num_heads: {num_heads} heads do not divide the shared width {shared_width}")
        super().__init__()
        self.projection = nn.Linear(width, shared_width)
        self.positions = nn.Parameter(0.02 * torch.randn(max_frames, shared_width))
        # layer by layer: nn.TransformerEncoder would start all of them with the same weights
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    shared_width,
                    num_heads,
                    4 * shared_width,
                    dropout=0.0,
                    activation=_quick_gelu,
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(num_layers)
            )
        )

    def forward(self, map_BWFN: Tensor) -> Tensor:
        _check_map(map_BWFN, self.projection.in_features)
        num_frames, max_frames = map_BWFN.shape[3], len(self.positions)
        if num_frames > max_frames:
            raise ValueError(f"similarity.max_frames: a map of {num_frames} frames, positions for {max_frames}")
        frames_BNC = self.projection(_frames(map_BWFN))
        return (frames_BNC + self.layers(frames_BNC + self.positions[:num_frames])).mean(dim=1)


def _quick_gelu(values: Tensor) -> Tensor:
    return values * torch.sigmoid(1.702 * values)


def _frames(map_BWFN: Tensor) -> Tensor:
    """frames_BNW: the columns of the map, averaged over frequency."""
    return map_BWFN.mean(dim=2).transpose(1, 2)


def _check_map(map_BWFN: Tensor, width: int) -> None:
    if map_BWFN.ndim != 4 or map_BWFN.shape[1] != width or 0 in map_BWFN.shape[2:]:
        raise ValueError(f"expected a map (clips, {width} channels, rows, columns), got {tuple(map_BWFN.shape)}")
