from __future__ import annotations

import itertools
import math

import pytest

from raysem.metrics.binomial import sign_test, win_rate


def test_the_sign_test_counts_the_outcomes_that_are_as_far_from_half():
    for wins, losses in [(0, 5), (1, 4), (3, 2), (7, 3), (4, 4)]:
        total = wins + losses
        outcomes = itertools.product((0, 1), repeat=total)
        as_far = sum(abs(2 * sum(outcome) - total) >= abs(wins - losses) for outcome in outcomes)
        assert sign_test(wins, losses) == pytest.approx(as_far / 2**total, rel=1e-15)


def test_the_sign_test_has_its_closed_forms():
    assert sign_test(0, 0) == 1
    assert sign_test(6, 6) == 1
    assert sign_test(10, 0) == 2 / 2**10
    assert sign_test(1, 9) == sign_test(9, 1) == 22 / 1024
    assert sign_test(0, 1074) == 2.0**-1073  # no overflow on the way, and the smallest numbers are right


def test_the_interval_has_its_closed_forms_where_all_is_won_or_lost():
    for total in (1, 7, 40, 3000):
        bound = 0.025 ** (1 / total)
        won, lost = win_rate(total, 0), win_rate(0, total)
        assert (won.estimate, won.high, lost.estimate, lost.low) == (1, 1, 0, 0)
        assert won.low == pytest.approx(bound, abs=1e-12)
        assert lost.high == pytest.approx(1 - bound, abs=1e-12)


def test_each_bound_is_the_rate_at_which_its_tail_holds_half_of_what_is_left():
    wins, losses, level = 9, 24, 0.9
    total = wins + losses

    def chance(rate: float, outcomes: range) -> float:
        return sum(math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in outcomes)

    found = win_rate(wins, losses, level=level)
    assert found.estimate == wins / total
    assert chance(found.low, range(wins, total + 1)) == pytest.approx(0.05, abs=1e-12)
    assert chance(found.high, range(wins + 1)) == pytest.approx(0.05, abs=1e-12)


def test_the_interval_turns_round_with_the_counts_and_agrees_with_the_test():
    for wins, losses in itertools.product(range(12), repeat=2):
        if wins + losses:
            found, other = win_rate(wins, losses), win_rate(losses, wins)
            assert found.low == pytest.approx(1 - other.high, abs=1e-12)
            assert (not found.low <= 0.5 <= found.high) == (sign_test(wins, losses) < 0.05)


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="got -1 and 2"):
        sign_test(-1, 2)
    with pytest.raises(ValueError, match="a rate needs a win or a loss"):
        win_rate(0, 0)
    with pytest.raises(ValueError, match="level"):
        win_rate(1, 1, level=1.0)
