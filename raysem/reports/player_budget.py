"""Players for a page until its bound on audio is reached."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from raysem.reports.players import Player, PlayerSettings, encode_player


class PlayerBudget:
    """Gives out players; what does not fit is named in the page and not heard."""

    def __init__(self, settings: PlayerSettings):
        self._settings = settings
        self._num_bytes = 0
        self.num_players = 0

    def player(self, waveform_T: np.ndarray, sample_rate: int) -> Player | None:
        """None where the bound is reached; a shorter clip may still fit."""
        if self.num_players >= self._settings.max_players:
            return None
        player = encode_player(waveform_T, sample_rate, self._settings)
        if self._num_bytes + player.num_bytes > self._settings.max_total_mib * 2**20:
            return None
        self._num_bytes += player.num_bytes
        self.num_players += 1
        return player


def wave(player: Player | None) -> Markup:
    """The player's loudness over time as a drawing; empty for None."""
    if player is None:
        return Markup("")
    bars = "".join(
        f"M{3 * at + 1.5:g} {16 - max(1, 14 * peak):.1f}V{16 + max(1, 14 * peak):.1f}"
        for at, peak in enumerate(player.peaks)
    )
    width = 3 * len(player.peaks)
    return Markup(
        f'<svg class="wave" viewBox="0 0 {width} 32" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{bars}"/></svg>'
    )
