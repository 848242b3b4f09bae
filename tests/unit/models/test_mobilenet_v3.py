from __future__ import annotations

import pytest
import torch
from torch import nn

from raysem.models.mobilenet_v3 import (
    BLOCKS,
    InvertedResidual,
    MobileNetV3,
    MobileNetV3Settings,
    SqueezeExcitation,
    rounded_channels,
)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(16, 16), (6.4, 8), (1, 8), (11.9, 16), (28.8, 32), (44, 48), (9.6, 16), (18, 24)]
)
def test_channels_are_rounded_to_eights_but_never_far_down(channels: float, rounded: int):
    assert rounded_channels(channels) == rounded
    assert rounded >= 0.9 * channels


def test_a_gate_scales_each_channel_by_its_own_factor():
    torch.manual_seed(0)
    gate, features_BCFN = SqueezeExcitation(32), torch.randn(2, 32, 4, 5)
    with torch.no_grad():
        gated_BCFN = gate(features_BCFN)
    ratio_BCFN = gated_BCFN / features_BCFN
    torch.testing.assert_close(ratio_BCFN, ratio_BCFN[..., :1, :1].expand_as(ratio_BCFN), rtol=1e-4, atol=1e-5)
    assert ((ratio_BCFN > 0) & (ratio_BCFN < 1)).all()
    nn.init.zeros_(gate.fc2.weight)
    nn.init.zeros_(gate.fc2.bias)
    torch.testing.assert_close(gate(features_BCFN), features_BCFN / 2)


def test_a_block_is_residual_where_the_size_stays():
    settings = MobileNetV3Settings()
    width, residual = 16, []
    for block in BLOCKS:
        residual.append(InvertedResidual(width, block, settings).is_residual)
        width = block.out
    assert residual == [block in (0, 2, 4, 5, 7, 8, 9, 11, 13, 14) for block in range(15)]


def test_a_residual_block_that_projects_to_nothing_is_the_identity():
    torch.manual_seed(0)
    block = InvertedResidual(40, BLOCKS[4], MobileNetV3Settings()).eval()
    nn.init.zeros_(block.block[-1][0].weight)
    features_BCFN = torch.randn(2, 40, 6, 6)
    torch.testing.assert_close(block(features_BCFN), features_BCFN)


def test_each_stride_halves_frames_and_mels():
    network = MobileNetV3(MobileNetV3Settings(width=0.1, num_mels=64)).eval()
    with torch.no_grad():
        for frames in (1, 31, 33, 64):
            encoded = network.encode(torch.zeros(1, frames, 64))
            assert encoded.map_BWFN.shape == (1, 96, 2, -(-frames // 32))
            torch.testing.assert_close(encoded.embedding_BW, encoded.map_BWFN.mean(dim=(2, 3)))
