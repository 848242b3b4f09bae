"""CBAM: a gate for each channel of a map, then one for each of its places."""

# Shapes: B clips, W width (channels) of the map, F rows and N columns of the map, H hidden units.

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH_NORM_MOMENTUM = 0.01  # the authors'; torch's own is 0.1


class Cbam(nn.Module):
    """A map times its gates, each in (0, 1), of the same shape.

    Woo et al. 2018, Eq. 2-5; repository Jongchan/attention-module, MODELS/cbam.py, whose batch norm after the
    convolution the paper does not mention. The channel gate is sigmoid(MLP(mean) + MLP(maximum)) over places, one MLP
    W-H-W for both; the spatial gate, of the map so far, is sigmoid(BN(convolution of [maximum; mean] over channels)).
    74.6 thousand parameters at a width of 768.

    Args:
        reduction: H = width / reduction, rounded down, and at least 1.
        kernel: side of the spatial convolution, odd.
    """

    def __init__(self, width: int, *, reduction: int = 16, kernel: int = 7):
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that the map keeps its shape; got {kernel}")
        super().__init__()
        hidden = max(1, width // reduction)
        self.channel_mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.spatial_conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.spatial_norm = nn.BatchNorm2d(1, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, map_BWFN: Tensor) -> Tensor:
        map_BWFN = map_BWFN * self.channel_gate(map_BWFN)
        return map_BWFN * self.spatial_gate(map_BWFN)

    def channel_gate(self, map_BWFN: Tensor) -> Tensor:
        """(B, W, 1, 1)."""
        mean_BW, maximum_BW = map_BWFN.mean(dim=(2, 3)), map_BWFN.amax(dim=(2, 3))
        return torch.sigmoid(self.channel_mlp(mean_BW) + self.channel_mlp(maximum_BW))[:, :, None, None]

    def spatial_gate(self, map_BWFN: Tensor) -> Tensor:
        """(B, 1, F, N), of a map that has passed the channel gate."""
        pooled_B2FN = torch.stack([map_BWFN.amax(dim=1), map_BWFN.mean(dim=1)], dim=1)
        return torch.sigmoid(self.spatial_norm(self.spatial_conv(pooled_B2FN)))
