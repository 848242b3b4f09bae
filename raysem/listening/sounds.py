"""The sounds of a listening test: clips of a clips table, loaded and encoded for the page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from raysem import storage
from raysem.audio.load import AudioSettings, load_clip
from raysem.corpora.shards import clips_folder
from raysem.errors import ClipError, DataError
from raysem.listening.rows import Place, find_rows, read_rows, table_files
from raysem.reports.players import Player, PlayerSettings, encode_player
from raysem.tables import CLIPS, conform

log = logging.getLogger(__name__)

SAMPLE_RATE = 32_000
"""Of what is heard: the highest rate that an audio encoder of raysem takes."""


@dataclass(frozen=True)
class Sound:
    """One clip as the page plays it."""

    clip_id: str
    player: Player
    is_whole: bool
    """False where only the beginning is played."""


@dataclass(frozen=True)
class ClipTable:
    """Those clips of a table that may be asked for."""

    location: str
    places: Mapping[str, Place]

    def take(self, draw: Sequence[str], num_clips: int, max_seconds: float) -> tuple[list[Sound], dict[str, str]]:
        """The first `num_clips` clips of `draw` that can be played, in its order; and the reason for each left out."""
        remaining = iter(draw)
        sounds: list[Sound] = []
        left_out: dict[str, str] = {}
        while len(sounds) < num_clips and (block := list(islice(remaining, num_clips - len(sounds)))):
            loaded: dict[str, Sound] = {}
            places = {clip_id: self.places[clip_id] for clip_id in block}
            for clip_id, row in read_rows(places, ["clip_id", "audio"], ["start_seconds", "duration_seconds"]):
                try:
                    loaded[clip_id] = _sound(clip_id, row, places[clip_id].file, max_seconds)
                except ClipError as error:
                    left_out[clip_id] = str(error)
                    log.info("clip %s is left out: %s", clip_id, error)
            sounds += [loaded[clip_id] for clip_id in block if clip_id in loaded]
        return sounds, left_out


def open_clips(location: str, wanted: set[str]) -> ClipTable:
    """The clips table at `location`: a Parquet file, a folder of them, or what `raysem corpus build` wrote.

    Raises:
        DataError: there is no such table.
    """
    location = storage.absolute(location)
    if not location.endswith(".parquet"):
        location = clips_folder(location)
        if not storage.list_files(location, ".parquet"):
            raise DataError(f"{location}: no clips table there; `raysem corpus build` makes one of any audio")
    return ClipTable(location, find_rows(table_files(location), wanted))


def _sound(clip_id: str, row: pa.Table, file: str, max_seconds: float) -> Sound:
    values = conform(row, CLIPS, file).to_pylist()[0]
    audio = values["audio"] or {"bytes": None, "path": None}
    samples_T = load_clip(
        audio["bytes"],
        audio["path"],
        start_seconds=values["start_seconds"],
        duration_seconds=values["duration_seconds"],
        settings=AudioSettings(sample_rate=SAMPLE_RATE),
    )
    settings = PlayerSettings(max_seconds=max_seconds, sample_rate=SAMPLE_RATE)
    player = encode_player(samples_T, SAMPLE_RATE, settings)
    return Sound(clip_id, player, len(samples_T) <= max_seconds * SAMPLE_RATE)
