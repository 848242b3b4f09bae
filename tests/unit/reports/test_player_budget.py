from __future__ import annotations

import numpy as np

from raysem.reports.player_budget import PlayerBudget, wave
from raysem.reports.players import PlayerSettings


def tone(seconds: float) -> np.ndarray:
    return np.sin(np.arange(int(8000 * seconds)) * 0.3).astype(np.float32)


def test_players_are_given_out_until_their_number_is_reached():
    budget = PlayerBudget(PlayerSettings(max_players=2))
    assert [budget.player(tone(0.2), 8000) is not None for _ in range(3)] == [True, True, False]
    assert budget.num_players == 2


def test_a_shorter_clip_may_fit_where_a_long_one_did_not():
    long, short = (PlayerBudget(PlayerSettings()).player(tone(seconds), 8000) for seconds in (4, 0.2))
    assert long is not None
    assert short is not None
    budget = PlayerBudget(PlayerSettings(max_total_mib=(2 * long.num_bytes - 1) / 2**20))
    assert budget.player(tone(4), 8000) == long
    assert budget.player(tone(4), 8000) is None
    assert budget.player(tone(0.2), 8000) == short
    assert budget.num_players == 2


def test_the_wave_has_a_bar_for_each_peak_and_nothing_is_drawn_of_nothing():
    player = PlayerBudget(PlayerSettings()).player(tone(1), 8000)
    assert player is not None
    assert wave(player).count("M") == len(player.peaks)
    assert wave(None) == ""
