from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from raysem.config import plain
from raysem.training.schedule import Schedule, ScheduleSettings


def test_warm_up_rises_linearly_to_the_full_rate():
    schedule = Schedule(ScheduleSettings(warmup_steps=4), 100)
    assert [schedule.factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_passes_its_middle_and_ends_at_the_final_factor():
    schedule = Schedule(ScheduleSettings(kind="cosine", warmup_steps=10, final_factor=0.1), 110)
    assert schedule.factor(10) == pytest.approx(1.0)
    assert schedule.factor(60) == pytest.approx(0.55)
    assert schedule.factor(110) == pytest.approx(0.1)
    assert schedule.factor(500) == pytest.approx(0.1)


def test_linear_falls_by_the_same_amount_each_step_and_ends_its_last_step_at_the_final_factor():
    schedule = Schedule(ScheduleSettings(kind="linear", warmup_steps=10, final_factor=0.01), 110)
    factors = [schedule.factor(step) for step in range(110)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10:] == pytest.approx([1 - 0.99 * k / 99 for k in range(100)])
    assert factors[-1] == 0.01
    assert schedule.factor(500) == 0.01


def test_linear_without_room_after_its_warm_up_stays_at_the_full_rate():
    schedule = Schedule(ScheduleSettings(kind="linear", warmup_steps=3), 4)
    assert [schedule.factor(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_plateau_reduces_after_its_patience_and_not_below_its_minimum():
    schedule = Schedule(ScheduleSettings(kind="plateau", plateau_patience=2, minimum_factor=0.05), 100)
    factors = []
    for metric in [0.1, 0.2, 0.2, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]:
        schedule.observe(metric)
        factors.append(schedule.factor(50))
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])


def test_a_plateau_goes_on_from_its_state():
    settings = ScheduleSettings(kind="plateau", plateau_patience=1)
    whole, first, second = (Schedule(settings, 10) for _ in range(3))
    metrics = [0.1, 0.0, 0.0, 0.0, 0.2]
    for metric in metrics:
        whole.observe(metric)
    for metric in metrics[:2]:
        first.observe(metric)
    second.load(first.state())
    for metric in metrics[2:]:
        second.observe(metric)
    assert second.state() == whole.state()


def test_a_constant_rate_takes_no_notice_of_the_metric():
    schedule = Schedule(ScheduleSettings(), 10)
    for _ in range(50):
        schedule.observe(0.0)
    assert schedule.factor(9) == 1.0


@pytest.mark.parametrize(("gamma", "steps_per_decay"), [(0.96, 7), (0.5, 1), (1.0, 3)])
def test_exponential_is_that_of_torch_stepped_once_an_epoch(gamma: float, steps_per_decay: int):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=8e-5)
    reference = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    settings = ScheduleSettings(kind="exponential", gamma=gamma, steps_per_decay=steps_per_decay)
    schedule, expected = Schedule(settings, 70), []
    for step in range(70):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        if (step + 1) % steps_per_decay == 0:
            reference.step()
    # torch multiplies again and again, which rounds otherwise
    assert [8e-5 * schedule.factor(step) for step in range(70)] == pytest.approx(expected, rel=1e-12)


def test_exponential_counts_its_epochs_from_the_end_of_the_warm_up():
    settings = ScheduleSettings(kind="exponential", gamma=0.5, steps_per_decay=3, warmup_steps=4)
    factors = [Schedule(settings, 11).factor(step) for step in range(11)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 0.5, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("gamma", [0.0, 1.01, -0.5])
def test_a_gamma_that_is_no_decay_is_refused(gamma: float):
    with pytest.raises(ValidationError, match="gamma"):
        ScheduleSettings(kind="exponential", gamma=gamma)


BEFORE = {
    "kind": "linear",
    "warmup_steps": 3,
    "final_factor": 0.0,
    "plateau_factor": 0.1,
    "plateau_patience": 10,
    "minimum_factor": 0.0001,
}
"""A schedule as it was written before there was an exponential one."""


def test_settings_of_other_kinds_are_written_as_they_were():
    assert plain(ScheduleSettings(kind="linear", warmup_steps=3)) == BEFORE


@pytest.mark.parametrize(
    "changes",
    [{}, {"kind": "exponential"}, {"kind": "exponential", "gamma": 0.9}, {"gamma": 0.9, "steps_per_decay": 5}],
)
def test_written_settings_are_read_back_as_equal_ones(changes: dict[str, Any]):
    settings = ScheduleSettings(**changes)
    assert ScheduleSettings.model_validate(plain(settings)) == settings
    if settings.kind == "exponential":
        assert plain(settings) == BEFORE | {
            "kind": "exponential", "warmup_steps": 0, "gamma": settings.gamma, "steps_per_decay": 100
        }  # fmt: skip
