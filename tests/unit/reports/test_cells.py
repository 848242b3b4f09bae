from __future__ import annotations

import pytest

from raysem.reports.cells import difference_cell, percent, points, rounded_count, signed, spoken_duration


@pytest.mark.parametrize(
    ("seconds", "spoken"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (75.2, "1 min 15 s"),
        (3720, "1 h 02 min"),
    ],
)
def test_durations_are_spoken(seconds, spoken):
    assert spoken_duration(seconds) == spoken


def test_differences_have_a_true_minus_and_nothing_has_no_sign():
    assert [points(value) for value in (0.018, -0.0351, 0.0, -0.0001)] == ["+1.8", "−3.5", "0.0", "0.0"]


def test_shares_are_percent_without_the_sign_and_nothing_is_a_dash():
    assert [percent(0.815), percent(0.815, 0), percent(None)] == ["81.5", "82", "–"]


def test_signed_numbers_have_a_true_minus_and_nothing_has_no_sign():
    assert [signed(value) for value in (-0.412, 0.036, -0.001, 0)] == ["−0.41", "+0.04", "0.00", "0.00"]
    assert signed(-0.4123, 3) == "−0.412"


def test_shared_counts_have_a_decimal_only_where_it_says_something():
    assert [rounded_count(count) for count in (1203.0, 6.9999999, 12 + 1 / 3, 0.5)] == ["1,203", "7", "12.3", "0.5"]


@pytest.mark.parametrize(
    ("interval", "tone", "verdict"),
    [([0.01, 0.05], "better", "better"), ([-0.05, -0.01], "worse", "worse"), ([-0.01, 0.05], "neutral", "unclear")],
)
def test_a_difference_is_better_or_worse_only_where_its_interval_leaves_out_nothing_at_all(interval, tone, verdict):
    cell = difference_cell({"difference": 0.02, "interval": interval}, reach=0.1)
    assert (cell["tone"], cell["verdict"]) == (tone, verdict)
    assert f'class="interval {tone}"' in cell["bar"]
