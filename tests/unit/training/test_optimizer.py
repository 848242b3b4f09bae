from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from raysem.errors import ConfigError
from raysem.training.optimizer import WeightUpdates, build_optimizer
from raysem.training.schedule import ScheduleSettings
from raysem.training.settings import TrainingSettings

CPU = torch.device("cpu")


def test_weight_decay_spares_vectors_and_scalars_and_leaves_out_what_is_frozen():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[2].requires_grad_(False)
    groups = build_optimizer(model, TrainingSettings(optimizer="adamw", weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [
        (0.1, [2]),
        (0.0, [1, 1, 1]),
    ]


def test_a_step_clips_the_gradient_and_follows_the_schedule():
    model = nn.Linear(1, 1, bias=False)
    schedule = ScheduleSettings(warmup_steps=3)
    updates = WeightUpdates(model, TrainingSettings(learning_rate=0.4, gradient_clip=0.5, schedule=schedule), CPU)
    for step, rate in enumerate([0.1, 0.2, 0.3, 0.4]):
        updates.begin(step)
        assert updates.learning_rate == pytest.approx(rate)
        updates.backward(10 * model.weight.sum())
        assert updates.clip() == pytest.approx(10.0)
        assert model.weight.grad.item() == pytest.approx(0.5)
        before = model.weight.item()
        updates.apply()
        assert before - model.weight.item() == pytest.approx(rate, rel=1e-4)  # Adam, under a constant gradient


def test_updates_go_on_from_what_they_saved():
    def steps(updates: WeightUpdates, model: nn.Linear, numbers: range) -> None:
        for step in numbers:
            updates.begin(step)
            updates.backward((model.weight - step).square().sum())
            updates.clip()
            updates.apply()

    settings = TrainingSettings(steps=10, learning_rate=0.1)
    one, two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    two.load_state_dict(one.state_dict())
    whole, first, second = (WeightUpdates(model, settings, CPU) for model in (one, two, two))
    steps(whole, one, range(6))
    steps(first, two, range(3))
    second.load(first.tensors(), first.schedule.state())
    steps(second, two, range(3, 6))
    assert torch.equal(one.weight, two.weight)
    assert not second.skips_infinite
    assert math.isfinite(one.weight.item())


LAYERS = {"0.weight": 0, "0.bias": 0, "1.weight": 1, "1.bias": 1, "2.weight": 3, "2.bias": 3}


def three_layers(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))


def run(updates: WeightUpdates, model: nn.Module, steps: range) -> None:
    for step in steps:
        updates.begin(step)
        updates.backward(model(torch.linspace(-1, 1, 8).reshape(4, 2) + step).square().sum())
        updates.clip()
        updates.apply()


def test_each_layer_learns_at_the_decayed_rate_of_its_distance_to_the_last():
    model = three_layers()
    schedule = ScheduleSettings(warmup_steps=1)
    settings = TrainingSettings(learning_rate=0.4, gradient_clip=None, schedule=schedule, layer_decay=0.5)
    updates = WeightUpdates(model, settings, CPU, LAYERS)
    for step, factor in enumerate([0.5, 1.0]):
        updates.begin(step)
        assert updates.learning_rate == pytest.approx(0.4 * factor)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        updates.backward(sum(parameter.sum() for parameter in model.parameters()))
        updates.clip()
        updates.apply()
        for name, parameter in model.named_parameters():  # Adam, under a constant gradient: one step is the rate
            rate = 0.4 * factor * 0.5 ** (3 - LAYERS[name])
            torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(parameter, rate))


def test_groups_of_layers_keep_the_rule_of_weight_decay_and_leave_out_what_is_frozen():
    model = three_layers()
    model[0].requires_grad_(False)
    settings = TrainingSettings(optimizer="adamw", weight_decay=0.1, layer_decay=0.5)
    groups = build_optimizer(model, settings, LAYERS).param_groups
    assert [(group["scale"], group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [
        (0.25, 0.1, [2]),
        (0.25, 0.0, [1]),
        (1.0, 0.1, [2]),
        (1.0, 0.0, [1]),
    ]


def test_a_layer_decay_of_one_is_none_whatever_the_layers():
    plain, told = three_layers(), three_layers()
    settings = TrainingSettings(learning_rate=0.01, optimizer="adamw", weight_decay=0.1)
    run(WeightUpdates(plain, settings, CPU), plain, range(4))
    run(WeightUpdates(told, settings, CPU, LAYERS), told, range(4))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), told.parameters(), strict=True))


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_updates_of_layers_go_on_from_what_they_saved(layer_decay: float):
    settings = TrainingSettings(steps=10, learning_rate=0.1, layer_decay=layer_decay)
    whole, cut = three_layers(), three_layers()
    run(WeightUpdates(whole, settings, CPU, LAYERS), whole, range(6))
    first, second = (WeightUpdates(cut, settings, CPU, LAYERS) for _ in range(2))
    run(first, cut, range(3))
    saved = copy.deepcopy(first.tensors())
    if layer_decay == 1:  # as it was written before there were layers
        for group in saved["optimizer"]["param_groups"]:
            del group["scale"]
    second.load(saved, first.schedule.state())
    run(second, cut, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


def test_layers_that_do_not_fit_the_model_are_named():
    settings = TrainingSettings(layer_decay=0.5)
    with pytest.raises(ConfigError, match=r"training.layer_decay: is 0.5, but this model does not tell its layers"):
        build_optimizer(three_layers(), settings)
    fewer = {name: depth for name, depth in LAYERS.items() if name != "1.bias"}
    with pytest.raises(ValueError, match=r"no layer for \['1.bias'\], no parameter of the name \['head'\]"):
        build_optimizer(three_layers(), settings, fewer | {"head": 4})
