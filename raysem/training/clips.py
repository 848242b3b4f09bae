"""Clips of training tables as samples: decoded once, kept in a cache, replaced where they cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysem.audio.crops import centre_crop
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError, StageError
from raysem.training.cache import MIB, LeastRecentlyUsed
from raysem.training.draws import draw_index
from raysem.training.rejects import UnusableClip
from raysem.training.table import ClipTable, TrainingClip

# Shapes: B clips, T samples.

MAX_REPLACEMENTS = 20


@dataclass(frozen=True)
class UsableClip:
    """A clip with all its samples, and the clips that it stands in for."""

    clip: TrainingClip
    samples_T: np.ndarray
    replaced: tuple[UnusableClip, ...]


class ClipLoader:
    """Decoded clips at one sample rate, cached up to `cache_mib`; several tables share the cache.

    It crosses processes where its tables do, with an empty cache.
    """

    def __init__(
        self,
        tables: Sequence[ClipTable],
        *,
        audio: AudioSettings,
        cache_mib: int,
        load: Callable[..., np.ndarray] | None = None,
    ):
        """
        Args:
            load: `load_clip` with its settings, where it is not called as it is; it crosses no processes.
        """
        self.tables = tuple(tables)
        self.audio, self.sample_rate = audio, audio.sample_rate
        self._cache_mib, self._load_clip = cache_mib, load or partial(load_clip, settings=audio)
        self._found: LeastRecentlyUsed[tuple[int, int], np.ndarray | UnusableClip] = LeastRecentlyUsed(cache_mib * MIB)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ClipLoader, self.tables, audio=self.audio, cache_mib=self._cache_mib), ()

    def of(self, tables: Sequence[ClipTable], *, cache_mib: int) -> ClipLoader:
        """The clips of other tables, loaded in the same way."""
        return ClipLoader(tables, audio=self.audio, cache_mib=cache_mib)

    def loaded_by(self, load: Callable[..., np.ndarray]) -> ClipLoader:
        """The same clips, loaded by `load` and not kept."""
        return ClipLoader(self.tables, audio=self.audio, cache_mib=0, load=load)

    def row_and_waveform(self, table: int, row: int) -> tuple[TrainingClip, np.ndarray | UnusableClip]:
        """The row, and all its samples or why it cannot be used; at once when it was loaded before.

        Raises:
            StorageError: the disk or the store failed, which is no fault of the clip.
        """
        clip = self.tables[table].row(row)
        return clip, self._found.get((table, row), lambda: self._load(clip, table), _num_bytes)

    def usable(self, table: int, row: int, *, seed: int, epoch: int) -> UsableClip:
        """The row, or in its place another of its row group (or of its table in memory).

        Which one is drawn by (seed, epoch, row, attempt).

        Raises:
            StageError: `MAX_REPLACEMENTS` clips in a row cannot be used; other ranks may have found better ones.
            StorageError: a clip or a row group cannot be reached.
        """
        unusable: list[UnusableClip] = []
        candidate = row
        for attempt in range(MAX_REPLACEMENTS + 1):
            clip, found = self.row_and_waveform(table, candidate)
            if not isinstance(found, UnusableClip):
                return UsableClip(clip, found, tuple(unusable))
            unusable.append(found)
            at_hand = self.tables[table].block_of(row)
            candidate = at_hand[draw_index(len(at_hand), "replacement", seed, epoch, row, attempt)]
        shown = "; ".join(map(str, unusable[:3]))
        raise StageError(f"{self.tables[table].name}: {len(unusable)} clips in a row cannot be used, such as {shown}")

    def _load(self, clip: TrainingClip, table: int) -> np.ndarray | UnusableClip:
        if not clip.texts and self.tables[table].texts == "captions":
            return UnusableClip(clip.clip_id, "missing", "no caption")
        try:
            return self._load_clip(
                clip.audio_bytes,
                clip.audio_path,
                start_seconds=clip.start_seconds,
                duration_seconds=clip.duration_seconds,
            )
        except ClipError as error:
            return UnusableClip(clip.clip_id, error.outcome, error.reason)


def centre_crops(
    clips: ClipLoader, table: int, rows: Sequence[int], *, crop_samples: int, pool: ThreadPoolExecutor
) -> tuple[list[TrainingClip | UnusableClip], Tensor]:
    """The rows with their middle `crop_samples` samples, for measuring; zeros for a clip that cannot be used."""

    def one(row: int) -> tuple[TrainingClip | UnusableClip, np.ndarray]:
        clip, found = clips.row_and_waveform(table, row)
        if isinstance(found, UnusableClip):
            return found, np.zeros(crop_samples, np.float32)
        return clip, centre_crop(found, crop_samples)

    loaded = list(pool.map(one, rows))
    return [clip for clip, _ in loaded], torch.from_numpy(np.stack([crop_T for _, crop_T in loaded]))


def _num_bytes(found: np.ndarray | UnusableClip) -> int:
    return found.nbytes if isinstance(found, np.ndarray) else 1024
