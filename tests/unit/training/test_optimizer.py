from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import StopAt, TinyNetwork, run_tiny, tiny_settings, write_data
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


def sgd(**changes: Any) -> TrainingSettings:
    defaults: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.01, "gradient_clip": None}
    return TrainingSettings(**(defaults | changes))


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
def test_sgd_is_that_of_torch_with_nesterov_momentum_and_exponential_decay(momentum: float):
    ours, theirs = (nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False)) for _ in "12")
    theirs.load_state_dict(ours.state_dict())
    schedule = ScheduleSettings(kind="exponential", gamma=0.5, steps_per_decay=4)
    updates = WeightUpdates(ours, sgd(weight_decay=0.1, momentum=momentum, schedule=schedule), CPU)
    reference = torch.optim.SGD(
        theirs.parameters(), lr=0.01, momentum=momentum, nesterov=momentum > 0, weight_decay=0.1
    )
    decay = torch.optim.lr_scheduler.ExponentialLR(reference, 0.5)
    for step in range(12):
        run(updates, ours, range(step, step + 1))
        reference.zero_grad()
        theirs(torch.linspace(-1, 1, 8).reshape(4, 2) + step).square().sum().backward()
        reference.step()
        if step % 4 == 3:
            decay.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_steps_of_sgd_written_out():
    """v <- mu v + g, w <- w - rate (g + mu v), where g holds the decay of a matrix and not that of a vector."""
    model = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 1.0)
    updates = WeightUpdates(model, sgd(momentum=0.8, weight_decay=0.5, learning_rate=0.1), CPU)
    weight, bias, speed_weight, speed_bias = 2.0, 1.0, 0.0, 0.0
    for step in range(5):
        updates.begin(step)
        updates.backward(3 * model.weight.sum() + model.bias.square().sum())
        updates.clip()
        updates.apply()
        gradient_weight, gradient_bias = 3 + 0.5 * weight, 2 * bias
        speed_weight, speed_bias = 0.8 * speed_weight + gradient_weight, 0.8 * speed_bias + gradient_bias
        weight -= 0.1 * (gradient_weight + 0.8 * speed_weight)
        bias -= 0.1 * (gradient_bias + 0.8 * speed_bias)
        assert (model.weight.item(), model.bias.item()) == (pytest.approx(weight), pytest.approx(bias))


def test_sgd_has_the_rates_of_its_layers():
    groups = build_optimizer(three_layers(), sgd(layer_decay=0.5), LAYERS).param_groups
    assert [group["scale"] for group in groups] == [0.125, 0.125, 0.25, 0.25, 1.0, 1.0]
    assert {(group["momentum"], group["nesterov"]) for group in groups} == {(0.9, True)}


@pytest.mark.parametrize("stop_at_step", [1, 5, 8])
def test_a_run_with_sgd_that_was_killed_and_started_again_equals_the_uninterrupted_one(
    tmp_path: Path, stop_at_step: int
):
    data = write_data(tmp_path / "data")
    schedule = ScheduleSettings(kind="exponential", gamma=0.8, steps_per_decay=3, warmup_steps=1)
    settings = tiny_settings(optimizer="sgd", learning_rate=0.05, weight_decay=5e-4, schedule=schedule)

    def trained(name: str, wrap: Callable[[Any], Any] = lambda objective: objective) -> dict[str, torch.Tensor]:
        model, _ = run_tiny(tmp_path / name, data=data, settings=settings, wrap_objective=wrap)
        return model.state_dict()

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("killed", lambda objective: StopAt(objective, stop_at_step))
    resumed = trained("killed")
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert not torch.equal(whole["hidden.weight"], TinyNetwork().hidden.weight)


def test_momentum_counts_where_sgd_reads_it_and_nowhere_else():
    adam, other = TrainingSettings(), TrainingSettings(momentum=0.5)
    assert adam.what_counts() == other.what_counts()
    assert "momentum" not in adam.what_counts()
    assert sgd().what_counts()["momentum"] == 0.9
    assert sgd().what_counts() != sgd(momentum=0.5).what_counts()


def test_what_counts_of_a_run_without_sgd_is_what_it_was():
    """Word for word as in the checkpoints of runs made before there was momentum; another content refuses a resume."""
    assert TrainingSettings(steps=5, schedule=ScheduleSettings(kind="cosine")).what_counts() == {
        "steps": 5, "batch_size": 128, "accumulation": 1, "learning_rate": 0.0001, "optimizer": "adam",
        "weight_decay": 0.0, "layer_decay": 1.0,
        "schedule": {
            "kind": "cosine", "warmup_steps": 0, "final_factor": 0.0, "plateau_factor": 0.1, "plateau_patience": 10,
            "minimum_factor": 0.0001,
        },
        "weight_average": None, "gradient_clip": 5.0, "precision": "fp32", "sync_batch_norm": True,
        "evaluate_every_steps": 100, "held_out_pairs": 1024, "selection_metric": "held_out_loss", "keep": "best",
        "max_unusable_share": 0.05, "table_memory_mib": 512,
    }  # fmt: skip
