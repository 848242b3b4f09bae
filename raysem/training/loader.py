"""Batches of waveforms with captions, decoded ahead of use by a pool of threads. The result depends on no thread."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysem.audio.crops import centre_crop, train_crop
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError, StageError
from raysem.training.draws import draw_index
from raysem.training.pairs import MIB, LeastRecentlyUsed, PairRow, PairTable
from raysem.training.plan import StepPlan
from raysem.training.rejects import UnusableClip

log = logging.getLogger(__name__)

# Shapes: B clips of one rank's part of a batch, T samples.

MAX_REPLACEMENTS = 20


@dataclass(frozen=True)
class PairBatch:
    """One rank's part of a (micro-)batch. Row i of each field is one pair."""

    waveform_BT: Tensor
    captions: list[str]
    clip_ids: list[str]
    source: int
    unusable: tuple[UnusableClip, ...] = ()
    """The clips that had to be replaced by others, each as often as it was drawn."""

    def to(self, device: torch.device) -> PairBatch:
        """The batch with its waveforms on `device`."""
        waveform_BT = self.waveform_BT.to(device, non_blocking=True)
        return PairBatch(waveform_BT, self.captions, self.clip_ids, self.source, self.unusable)


@dataclass(frozen=True)
class _Example:
    crop_T: np.ndarray
    caption: str
    clip_id: str
    unusable: tuple[UnusableClip, ...]


class ClipLoader:
    """Decoded clips at one sample rate, cached up to `cache_mib`; several tables share the cache."""

    def __init__(self, tables: Sequence[PairTable], *, audio: AudioSettings, cache_mib: int):
        self.tables = tuple(tables)
        self._audio = audio
        self._found: LeastRecentlyUsed[tuple[int, int], np.ndarray | UnusableClip] = LeastRecentlyUsed(cache_mib * MIB)

    def row_and_waveform(self, table: int, row: int) -> tuple[PairRow, np.ndarray | UnusableClip]:
        """The row, and all its samples or why it cannot be used; at once when it was loaded before.

        Raises:
            StorageError: the disk or the store failed, which is no fault of the clip.
        """
        pair = self.tables[table].row(row)
        return pair, self._found.get((table, row), lambda: self._load(pair), _num_bytes)

    def _load(self, pair: PairRow) -> np.ndarray | UnusableClip:
        if not pair.captions:
            return UnusableClip(pair.clip_id, "missing", "no caption")
        try:
            return load_clip(
                pair.audio_bytes,
                pair.audio_path,
                start_seconds=pair.start_seconds,
                duration_seconds=pair.duration_seconds,
                settings=self._audio,
            )
        except ClipError as error:
            return UnusableClip(pair.clip_id, error.outcome, error.reason)


def _num_bytes(found: np.ndarray | UnusableClip) -> int:
    return found.nbytes if isinstance(found, np.ndarray) else 1024


class BatchLoader:
    """This rank's parts of the global batches of a plan, in order, `prefetch_batches` ahead.

    The crop and the caption of a clip are fixed by (seed, epoch, clip_id). A clip that cannot be used is replaced by
    another of its row group (or of its table in memory), drawn by (seed, epoch, row, attempt).
    """

    def __init__(
        self,
        plan: StepPlan,
        clips: ClipLoader,
        *,
        crop_samples: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        num_threads: int = 2,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
    ):
        self._plan, self._clips, self._crop_samples, self._seed = plan, clips, crop_samples, seed
        self._rank, self._world_size, self._parts = rank, world_size, parts
        self._num_threads, self._prefetch, self._pin_memory = num_threads, prefetch_batches, pin_memory

    def batches(self, first_step: int, end_step: int) -> Generator[list[PairBatch], None, None]:
        """For each step its parts (one, without accumulation).

        Raises:
            StageError: `MAX_REPLACEMENTS` clips in a row cannot be used; other ranks may have found better ones.
            StorageError: a clip or a row group cannot be reached.
        """
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="clips") as pool:
            waiting: deque[list[tuple[int, list[Future[_Example]]]]] = deque()
            try:
                submitted = first_step
                for _ in range(first_step, end_step):
                    while submitted < end_step and len(waiting) <= self._prefetch:
                        waiting.append(self._submit(pool, submitted))
                        submitted += 1
                    yield [self._collect(source, examples) for source, examples in waiting.popleft()]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> list[tuple[int, list[Future[_Example]]]]:
        planned = self._plan.step(step)
        parts = []
        for part in range(self._parts):
            rows = planned.rows.part_of_rank(self._rank, self._world_size, part, self._parts)
            pairs = zip(rows.rows_B.tolist(), rows.epochs_B.tolist(), strict=True)
            parts.append(
                (planned.source, [pool.submit(self._example, planned.source, row, epoch) for row, epoch in pairs])
            )
        return parts

    def _collect(self, source: int, futures: list[Future[_Example]]) -> PairBatch:
        examples = [future.result() for future in futures]
        waveform_BT = torch.from_numpy(np.stack([example.crop_T for example in examples]))
        return PairBatch(
            waveform_BT.pin_memory() if self._pin_memory else waveform_BT,
            [example.caption for example in examples],
            [example.clip_id for example in examples],
            source,
            tuple(clip for example in examples for clip in example.unusable),
        )

    def _example(self, source: int, row: int, epoch: int) -> _Example:
        table = self._clips.tables[source]
        unusable: list[UnusableClip] = []
        candidate = row
        for attempt in range(MAX_REPLACEMENTS + 1):
            pair, found = self._clips.row_and_waveform(source, candidate)
            if isinstance(found, UnusableClip):
                unusable.append(found)
                at_hand = table.block_of(row)
                candidate = at_hand[draw_index(len(at_hand), "replacement", self._seed, epoch, row, attempt)]
                continue
            crop_T = train_crop(found, self._crop_samples, seed=self._seed, epoch=epoch, clip_id=pair.clip_id)
            return _Example(crop_T, pair.caption(seed=self._seed, epoch=epoch), pair.clip_id, tuple(unusable))
        shown = "; ".join(map(str, unusable[:3]))
        raise StageError(f"{table.name}: {len(unusable)} clips in a row cannot be used, such as {shown}")


def centre_crops(
    clips: ClipLoader, table: int, rows: Sequence[int], *, crop_samples: int, pool: ThreadPoolExecutor
) -> tuple[list[PairRow | UnusableClip], Tensor]:
    """The rows with their middle `crop_samples` samples, for measuring; zeros for a clip that cannot be used."""

    def one(row: int) -> tuple[PairRow | UnusableClip, np.ndarray]:
        pair, found = clips.row_and_waveform(table, row)
        if isinstance(found, UnusableClip):
            return found, np.zeros(crop_samples, np.float32)
        return pair, centre_crop(found, crop_samples)

    loaded = list(pool.map(one, rows))
    return [pair for pair, _ in loaded], torch.from_numpy(np.stack([crop_T for _, crop_T in loaded]))
