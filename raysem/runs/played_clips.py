"""The clips that a report plays; only they are read."""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np

from raysem import config, storage
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError
from raysem.runs.roles import clip_shards

log = logging.getLogger(__name__)

LISTENING_RATE = 22_050


def waveforms_of(clip_ids: Collection[str], part: storage.Location, audio: AudioSettings) -> dict[str, np.ndarray]:
    """The samples of some clips of a part at `LISTENING_RATE`; one that cannot be read is left out with a warning."""
    settings = AudioSettings(**{**config.plain(audio), "sample_rate": LISTENING_RATE})
    waveforms = {}
    for file in clip_shards(part):
        names = storage.read_table(file, ["clip_id"])["clip_id"].to_pylist()
        for index in [place for place, name in enumerate(names) if name in clip_ids]:
            row = storage.read_rows(file, index, index + 1).to_pylist()[0]
            try:
                waveforms[row["clip_id"]] = load_clip(
                    row["audio"]["bytes"],
                    row["audio"]["path"],
                    start_seconds=row["start_seconds"],
                    duration_seconds=row["duration_seconds"],
                    settings=settings,
                )
            except ClipError as error:
                log.warning("%s cannot be played in the report (%s)", row["clip_id"], error)
    return waveforms
