"""Our exact test and interval against scipy's."""

from __future__ import annotations

import pytest
from scipy import stats

from raysem.metrics.binomial import sign_test, win_rate


@pytest.mark.parametrize(("wins", "losses"), [(0, 3), (1, 0), (9, 24), (20, 20), (61, 40), (700, 500), (2, 5000)])
def test_test_and_interval_equal_scipys(wins: int, losses: int):
    theirs = stats.binomtest(wins, wins + losses)
    assert sign_test(wins, losses) == pytest.approx(theirs.pvalue, rel=1e-9)
    for level in (0.8, 0.95, 0.999):
        interval = theirs.proportion_ci(level, method="exact")
        found = win_rate(wins, losses, level=level)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-10)
