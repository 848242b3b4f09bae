from __future__ import annotations

import pytest

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
