"""The exact binomial test against a fair coin, and Clopper and Pearson's interval, without a library of statistics."""

from __future__ import annotations

import math
from collections.abc import Callable

from raysem.metrics.bootstrap import Interval

_HALVINGS = 60  # the width of a double's fraction, and some more


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact binomial test that a win is as likely as a loss; ties are left out beforehand.

    The chance, with a fair coin, of a result at least as far from half as this one: twice the smaller tail, at most 1.
    Summed in whole numbers. No wins and no losses give 1: nothing speaks against the coin.
    """
    _check(wins, losses)
    total = wins + losses
    tail = sum(math.comb(total, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**total)


def win_rate(wins: int, losses: int, *, level: float = 0.95) -> Interval:
    """wins / (wins + losses) with Clopper and Pearson's exact interval (Biometrika 26, 1934).

    It holds each rate that the exact test at (1 - level) / 2 on either side would not refuse, so it covers the true
    rate at least as often as it says, also where all answers are alike.

    Raises:
        ValueError: nothing was won or lost, so there is no rate.
    """
    _check(wins, losses)
    total = wins + losses
    if total == 0 or not 0 < level < 1:
        raise ValueError(f"a rate needs a win or a loss and a level in (0, 1), got {wins}, {losses} and {level}")
    half = (1 - level) / 2
    low = 0.0 if wins == 0 else _crossing(lambda rate: 1 - _at_most(wins - 1, total, rate) < half)
    high = 1.0 if losses == 0 else _crossing(lambda rate: _at_most(wins, total, rate) > half)
    return Interval(wins / total, low, high, level)


def _at_most(wins: int, total: int, rate: float) -> float:
    """Chance of at most `wins` of `total` at a rate in (0, 1)."""
    log_choices = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(wins + 1)]
    won, lost = math.log(rate), math.log1p(-rate)
    return math.fsum(math.exp(choices + k * won + (total - k) * lost) for k, choices in enumerate(log_choices))


def _crossing(is_below: Callable[[float], bool]) -> float:
    """Where a condition that holds from 0 upwards ends to hold, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2


def _check(wins: int, losses: int) -> None:
    if wins < 0 or losses < 0:
        raise ValueError(f"wins and losses are counts, got {wins} and {losses}")
