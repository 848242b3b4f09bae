from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raysem.models.cbam import Cbam


def random_cbam(width: int = 12, **changes: int) -> Cbam:
    """One whose parameters and statistics are all away from their starting values."""
    torch.manual_seed(0)
    cbam = Cbam(width, **changes)
    with torch.no_grad():
        for parameter in cbam.parameters():
            parameter.normal_(std=0.7)
        cbam.spatial_norm.running_mean.fill_(0.3)
        cbam.spatial_norm.running_var.fill_(1.7)
    return cbam


def random_map(*, width: int = 12, rows: int = 5, columns: int = 9) -> Tensor:
    return 2 * torch.randn(3, width, rows, columns, generator=torch.Generator().manual_seed(1)) + 0.5


def slow_cbam(weights: dict[str, Tensor], map_BWFN: Tensor, kernel: int, *, training: bool) -> Tensor:
    """The definition, clip by clip and place by place."""
    channel = {name.removeprefix("channel_mlp."): value for name, value in weights.items() if "channel" in name}

    def mlp(pooled_W: Tensor) -> Tensor:
        hidden_H = (channel["0.weight"] @ pooled_W + channel["0.bias"]).clamp(min=0)
        return channel["2.weight"] @ hidden_H + channel["2.bias"]

    gated, compressed = [], []
    for map_WFN in map_BWFN:
        places_WP = map_WFN.flatten(1)
        attention_W = mlp(places_WP.sum(dim=1) / places_WP.shape[1]) + mlp(places_WP.max(dim=1).values)
        gated.append(map_WFN / (1 + torch.exp(-attention_W))[:, None, None])
        pooled_2FN = torch.stack([gated[-1].max(dim=0).values, gated[-1].sum(dim=0) / len(gated[-1])])
        padded_2FN = F.pad(pooled_2FN, (kernel // 2,) * 4)
        compressed.append(torch.empty(map_WFN.shape[1:]))
        for row, column in product(*(range(side) for side in map_WFN.shape[1:])):
            seen = padded_2FN[:, row : row + kernel, column : column + kernel]
            compressed[-1][row, column] = (seen * weights["spatial_conv.weight"][0]).sum()
    compressed_BFN = torch.stack(compressed)
    mean, variance = weights["spatial_norm.running_mean"], weights["spatial_norm.running_var"]
    if training:
        mean, variance = compressed_BFN.mean(), compressed_BFN.var(unbiased=False)
    logits_BFN = (compressed_BFN - mean) / (variance + 1e-5).sqrt() * weights["spatial_norm.weight"]
    logits_BFN = logits_BFN + weights["spatial_norm.bias"]
    return torch.stack(gated) / (1 + torch.exp(-logits_BFN))[:, None]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernel", [3, 7])
def test_cbam_is_its_definition(kernel: int, training: bool):
    cbam, map_BWFN = random_cbam(reduction=4, kernel=kernel).train(training), random_map()
    weights = {name: value.clone() for name, value in cbam.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(cbam(map_BWFN), slow_cbam(weights, map_BWFN, kernel, training=training))


def test_the_published_width_has_its_number_of_parameters():
    """768 x 48 and back with biases, 2 x 7 x 7 weights, and the two numbers of batch norm."""
    assert sum(parameter.numel() for parameter in Cbam(768).parameters()) == 74_644


def test_gates_lie_between_0_and_1_and_the_map_is_multiplied_by_both():
    cbam, map_BWFN = random_cbam().eval(), random_map()
    with torch.no_grad():
        channel_BW11 = cbam.channel_gate(map_BWFN)
        spatial_B1FN = cbam.spatial_gate(map_BWFN * channel_BW11)
        torch.testing.assert_close(cbam(map_BWFN), map_BWFN * channel_BW11 * spatial_B1FN)
    assert channel_BW11.shape == (3, 12, 1, 1)
    assert spatial_B1FN.shape == (3, 1, 5, 9)
    for gate in (channel_BW11, spatial_B1FN):
        assert 0 < float(gate.min()) < float(gate.max()) < 1


def test_the_channel_gate_ignores_where_and_the_spatial_gate_which_channel():
    cbam, map_BWFN = random_cbam().eval(), random_map()
    generator = torch.Generator().manual_seed(2)
    moved_BWFN = map_BWFN.flatten(2)[:, :, torch.randperm(45, generator=generator)].view_as(map_BWFN)
    renamed_BWFN = map_BWFN[:, torch.randperm(12, generator=generator)]
    with torch.no_grad():
        torch.testing.assert_close(cbam.channel_gate(moved_BWFN), cbam.channel_gate(map_BWFN))
        torch.testing.assert_close(cbam.spatial_gate(renamed_BWFN), cbam.spatial_gate(map_BWFN))


@pytest.mark.parametrize(("width", "reduction", "hidden"), [(768, 16, 48), (50, 16, 3), (8, 16, 1), (1, 16, 1)])
def test_the_hidden_layer_is_rounded_down_and_has_a_unit_at_least(width: int, reduction: int, hidden: int):
    cbam = Cbam(width, reduction=reduction).eval()
    assert cbam.channel_mlp[0].out_features == hidden
    assert cbam(torch.ones(2, width, 1, 3)).shape == (2, width, 1, 3)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match=r"kernel must be odd, .*; got 4"):
        Cbam(8, kernel=4)
