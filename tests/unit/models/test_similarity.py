from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from raysem.models.similarity import SimilarityName, SimilaritySettings, build_similarity

NAMES: list[SimilarityName] = list(get_args(SimilarityName))
SEQUENCES: list[SimilarityName] = ["seq_lstm", "seq_transf"]
WIDTH, SHARED_WIDTH, HEADS = 10, 8, 2


def module(name: SimilarityName, *, max_frames: int = 16) -> nn.Module:
    """One whose parameters and statistics are all away from their starting values."""
    torch.manual_seed(0)
    settings = SimilaritySettings(name=name, cbam_reduction=4, num_layers=3, num_heads=HEADS, max_frames=max_frames)
    made = build_similarity(settings, WIDTH, SHARED_WIDTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name_of_buffer, buffer in made.named_buffers():
            if name_of_buffer.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name_of_buffer.endswith("running_mean"):
                buffer.normal_()
    return made.eval()


def random_map(rows: int = 3, columns: int = 7, *, clips: int = 4) -> Tensor:
    return torch.randn(clips, WIDTH, rows, columns, generator=torch.Generator().manual_seed(1))


def normed(values: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (values - mean) / (variance + 1e-5).sqrt() * weight + bias


def slow_cscm(made: nn.Module, map_BWFN: Tensor) -> Tensor:
    """Both convolutions as sums over their kernels, batch norm written out."""
    weights = made.state_dict()
    attended_BWFN = made.attention(map_BWFN)  # compared with its own definition in test_cbam
    rows, columns = map_BWFN.shape[2:]
    padded_BWFN = F.pad(attended_BWFN, (1, 1, 1, 1))
    hidden_BFNW = torch.zeros(len(map_BWFN), rows, columns, WIDTH)
    for row in range(3):
        for column in range(3):
            part_BWFN = padded_BWFN[:, :, row : row + rows, column : column + columns]
            hidden_BFNW += part_BWFN.permute(0, 2, 3, 1) @ weights["conv.weight"][:, :, row, column].T
    mean_W, variance_W = weights["norm.running_mean"], weights["norm.running_var"]
    if made.training:
        mean_W, variance_W = hidden_BFNW.mean(dim=(0, 1, 2)), hidden_BFNW.var(dim=(0, 1, 2), unbiased=False)
    hidden_BFNW = normed(hidden_BFNW, mean_W, variance_W, weights["norm.weight"], weights["norm.bias"]).clamp(min=0)
    projected_BFNC = hidden_BFNW @ weights["projection.weight"][:, :, 0, 0].T + weights["projection.bias"]
    return projected_BFNC.mean(dim=(1, 2))


def slow_mean(made: nn.Module, map_BWFN: Tensor) -> Tensor:
    weights = made.state_dict()
    projected_BFNC = map_BWFN.permute(0, 2, 3, 1) @ weights["projection.weight"].T + weights["projection.bias"]
    return projected_BFNC.mean(dim=(1, 2))


def projected_frames(made: nn.Module, map_BWFN: Tensor) -> list[Tensor]:
    """frame_BC for each column of the map."""
    weights, (rows, columns) = made.state_dict(), map_BWFN.shape[2:]
    means = [sum(map_BWFN[:, :, row, column] for row in range(rows)) / rows for column in range(columns)]
    return [frame_BW @ weights["projection.weight"].T + weights["projection.bias"] for frame_BW in means]


def slow_lstm(made: nn.Module, map_BWFN: Tensor) -> Tensor:
    """Gate by gate, frame by frame."""
    weights, frames = made.state_dict(), projected_frames(made, map_BWFN)
    hidden_BC = cell_BC = torch.zeros(len(map_BWFN), SHARED_WIDTH)
    total_BC = torch.zeros(len(map_BWFN), SHARED_WIDTH)
    for frame_BC in frames:
        gates = frame_BC @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"]
        gates = gates + hidden_BC @ weights["lstm.weight_hh_l0"].T + weights["lstm.bias_hh_l0"]
        take_BC, keep_BC, new_BC, give_BC = gates.chunk(4, dim=1)
        cell_BC = torch.sigmoid(keep_BC) * cell_BC + torch.sigmoid(take_BC) * torch.tanh(new_BC)
        hidden_BC = torch.sigmoid(give_BC) * torch.tanh(cell_BC)
        total_BC = total_BC + frame_BC + hidden_BC
    return total_BC / len(frames)


def slow_transformer(made: nn.Module, map_BWFN: Tensor) -> Tensor:
    """Head by head, with CLIP's block: x + attention(norm(x)), then x + MLP(norm(x))."""
    weights, frames_BNC = made.state_dict(), torch.stack(projected_frames(made, map_BWFN), dim=1)
    tokens_BNC = frames_BNC + weights["positions"][: frames_BNC.shape[1]]

    def layer_norm(values: Tensor, name: str) -> Tensor:
        mean, variance = values.mean(dim=-1, keepdim=True), values.var(dim=-1, unbiased=False, keepdim=True)
        return normed(values, mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(values: Tensor, name: str) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for layer in range(3):
        at = f"layers.{layer}."
        inputs_BNC = layer_norm(tokens_BNC, at + "norm1")
        joint_BN3C = inputs_BNC @ weights[at + "self_attn.in_proj_weight"].T + weights[at + "self_attn.in_proj_bias"]
        heads, width = [], SHARED_WIDTH // HEADS
        for head in range(HEADS):
            query, key, value = (part[..., head * width :][..., :width] for part in joint_BN3C.chunk(3, dim=-1))
            heads.append(torch.softmax(query @ key.mT / math.sqrt(width), dim=-1) @ value)
        tokens_BNC = tokens_BNC + linear(torch.cat(heads, dim=-1), at + "self_attn.out_proj")
        wide = linear(layer_norm(tokens_BNC, at + "norm2"), at + "linear1")
        tokens_BNC = tokens_BNC + linear(wide / (1 + torch.exp(-1.702 * wide)), at + "linear2")
    return (frames_BNC + tokens_BNC).mean(dim=1)


SLOW = {"cscm": slow_cscm, "seq_lstm": slow_lstm, "seq_transf": slow_transformer, "mean": slow_mean}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_each_module_is_its_definition(name: SimilarityName, training: bool):
    made, map_BWFN = module(name).train(training), random_map()
    with torch.no_grad():
        torch.testing.assert_close(made(map_BWFN), SLOW[name](made, map_BWFN), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_in_evaluation_a_row_does_not_depend_on_its_batch(name: SimilarityName):
    made, map_BWFN = module(name), random_map()
    with torch.no_grad():
        together_BC = made(map_BWFN)
        alone_BC = torch.cat([made(map_BWFN[row : row + 1]) for row in (3, 1, 0, 2)])
    torch.testing.assert_close(together_BC[[3, 1, 0, 2]], alone_BC)


def test_the_order_of_frames_matters_to_sequences_and_not_to_the_mean():
    map_BWFN = random_map()
    with torch.no_grad():
        for name in SEQUENCES:
            made = module(name)
            assert float((made(map_BWFN) - made(map_BWFN.flip(3))).abs().max()) > 0.01
        mean = module("mean")
        torch.testing.assert_close(mean(map_BWFN), mean(map_BWFN.flip(3)))


def test_the_transformer_knows_the_order_by_its_positions_alone():
    made, map_BWFN = module("seq_transf"), random_map()
    with torch.no_grad():
        made.positions.zero_()
        torch.testing.assert_close(made(map_BWFN), made(map_BWFN.flip(3)))


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_order_of_rows_does_not_matter_to_sequences(name: SimilarityName):
    made, map_BWFN = module(name), random_map()
    with torch.no_grad():
        torch.testing.assert_close(made(map_BWFN), made(map_BWFN.flip(2)))


def test_the_residual_of_the_lstm_is_the_mean_of_the_projected_frames():
    made, map_BWFN = module("seq_lstm"), random_map()
    with torch.no_grad():
        for parameter in made.lstm.parameters():
            parameter.zero_()
        torch.testing.assert_close(made(map_BWFN), slow_mean(made, map_BWFN))


def test_the_residual_of_the_transformer_is_beside_those_of_its_layers():
    """Layers that add nothing hand the frames on, so that they arrive twice: the same direction."""
    made, map_BWFN = module("seq_transf"), random_map()
    with torch.no_grad():
        made.positions.zero_()
        for layer in made.layers:
            for linear in (layer.self_attn.out_proj, layer.linear2):
                linear.weight.zero_()
                linear.bias.zero_()
        torch.testing.assert_close(made(map_BWFN), 2 * slow_mean(made, map_BWFN))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name: SimilarityName):
    made, map_BWFN = module(name).train(), random_map().requires_grad_()
    direction_BC = torch.randn(4, SHARED_WIDTH, generator=torch.Generator().manual_seed(2))
    (made(map_BWFN) * direction_BC).sum().backward()
    for parameter_name, parameter in made.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert float(parameter.grad.abs().max()) > 1e-5, parameter_name
    assert float(map_BWFN.grad.abs().amin(dim=(0, 1)).min()) > 0  # and every place of the map


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 16), (8, 8), (12, 1)])
def test_maps_of_any_shape_give_one_vector_per_clip(name: SimilarityName, rows: int, columns: int):
    with torch.no_grad():
        audio_BC = module(name)(random_map(rows, columns))
    assert audio_BC.shape == (4, SHARED_WIDTH)
    assert torch.isfinite(audio_BC).all()


def test_layers_of_a_new_transformer_differ():
    layers = build_similarity(SimilaritySettings(name="seq_transf"), WIDTH, SHARED_WIDTH).layers
    assert len(layers) == 4
    first, second = layers[0].self_attn.in_proj_weight, layers[1].self_attn.in_proj_weight
    assert not torch.equal(first, second)


def test_more_frames_than_positions_are_refused():
    made = module("seq_transf", max_frames=6)
    assert made(random_map(columns=6)).shape == (4, SHARED_WIDTH)
    with pytest.raises(ValueError, match=r"similarity\.max_frames: a map of 7 frames, positions for 6"):
        made(random_map(columns=7))


def test_heads_that_do_not_divide_the_shared_width_are_refused():
    settings = SimilaritySettings(name="seq_transf", num_heads=3)
    with pytest.raises(ValueError, match=r"similarity\.num_heads: 3 heads do not divide the shared width 8"):
        build_similarity(settings, WIDTH, SHARED_WIDTH)
    build_similarity(SimilaritySettings(name="seq_lstm", num_heads=3), WIDTH, SHARED_WIDTH)  # has no heads


@pytest.mark.parametrize("name", NAMES)
def test_a_map_of_another_width_or_kind_is_refused(name: SimilarityName):
    made = module(name)
    for wrong in (torch.ones(2, 9, 3, 4), torch.ones(2, WIDTH, 3), torch.ones(2, WIDTH, 3, 0)):
        with pytest.raises(ValueError, match=r"expected a map \(clips, 10 channels, rows, columns\), got"):
            made(wrong)


def test_a_module_of_another_name_is_refused():
    with pytest.raises(ValidationError, match="name"):
        SimilaritySettings.model_validate({"name": "seq_gru"})
