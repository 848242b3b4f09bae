from __future__ import annotations

import math

import pytest
import torch
from torch import nn

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
