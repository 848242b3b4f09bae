"""Players for a page until its bound on audio is reached."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from markupsafe import Markup

from raysem.reports.players import Player, PlayerSettings, encode_player

log = logging.getLogger(__name__)


class Sound(Protocol):
    """What can be played."""

    @property
    def waveform_T(self) -> np.ndarray: ...  # noqa: N802 - T is its shape

    @property
    def sample_rate(self) -> int: ...


SoundT = TypeVar("SoundT", bound=Sound)


@dataclass(frozen=True)
class SoundCard(Generic[SoundT]):
    """One clip in the page; `player` is None where the page's bound on audio was reached."""

    item: SoundT
    player: Player | None
    wave: Markup


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


def cards_in_turns(lists: Sequence[Sequence[SoundT]], settings: PlayerSettings) -> list[list[SoundCard[SoundT]]]:
    """A card for each item. Players are given out in turns, one item of each list at a time, so that the bound
    leaves every list something to hear."""
    turns = [(position, at) for at, items in enumerate(lists) for position in range(len(items))]
    cards: dict[tuple[int, int], SoundCard[SoundT]] = {}
    budget = PlayerBudget(settings)
    for position, at in sorted(turns):
        item = lists[at][position]
        player = budget.player(item.waveform_T, item.sample_rate)
        cards[position, at] = SoundCard(item, player, wave(player))
    if budget.num_players < len(turns):
        log.info("the report plays %d of %d clips: its bound on audio is reached", budget.num_players, len(turns))
    return [[cards[position, at] for position in range(len(items))] for at, items in enumerate(lists)]


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
