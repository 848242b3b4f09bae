"""Batches of waveforms with their texts, decoded ahead of use by a pool of threads. The result depends on no thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raysem.training.examples import Example, Examples
from raysem.training.plan import StepPlan
from raysem.training.rejects import UnusableClip

# Shapes: B clips of one rank's part of a batch, T samples.


@dataclass(frozen=True)
class ClipBatch:
    """One rank's part of a (micro-)batch. Row i of each field is one clip."""

    waveform_BT: Tensor
    texts: list[Mapping[str, float]]
    """What each clip is trained to be near, with weights: one caption, or labels."""
    clip_ids: list[str]
    source: int
    unusable: tuple[UnusableClip, ...] = ()
    """The clips that had to be replaced by others, each as often as it was drawn."""
    num_mixed: int = 0
    """Further clips that are mixed into these."""

    @classmethod
    def of(cls, source: int, examples: Sequence[Example], *, pin_memory: bool = False) -> ClipBatch:
        """The batch of these examples, in their order; its waveforms are copies of theirs."""
        waveform_BT = torch.from_numpy(np.stack([example.crop_T for example in examples]))
        return cls(
            waveform_BT.pin_memory() if pin_memory else waveform_BT,
            [example.texts for example in examples],
            [example.clip_id for example in examples],
            source,
            tuple(clip for example in examples for clip in example.unusable),
            sum(example.num_clips - 1 for example in examples),
        )

    @property
    def captions(self) -> list[str]:
        """The one text of each clip."""
        return [next(iter(texts)) for texts in self.texts]

    def to(self, device: torch.device) -> ClipBatch:
        """The batch with its waveforms on `device`."""
        return replace(self, waveform_BT=self.waveform_BT.to(device, non_blocking=True))


class Batches(Protocol):
    """This rank's parts of the global batches of a plan, in order. Where they are made changes no bit of them."""

    def batches(self, first_step: int, end_step: int) -> Generator[list[ClipBatch], None, None]:
        """For each step its parts (one, without accumulation).

        Raises:
            StageError: too many clips in a row cannot be used; other ranks may have found better ones.
            StorageError: a clip or a row group cannot be reached.
        """
        ...


class BatchLoader:
    """`Batches` by threads of this process, `prefetch_batches` ahead."""

    def __init__(
        self,
        plan: StepPlan,
        examples: Examples,
        *,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        num_threads: int = 2,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
    ):
        self._plan, self._examples = plan, examples
        self._rank, self._world_size, self._parts = rank, world_size, parts
        self._num_threads, self._prefetch, self._pin_memory = num_threads, prefetch_batches, pin_memory

    def batches(self, first_step: int, end_step: int) -> Generator[list[ClipBatch], None, None]:
        """For each step its parts."""
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="clips") as pool:
            waiting: deque[list[tuple[int, list[Future[Example]]]]] = deque()
            try:
                submitted = first_step
                for _ in range(first_step, end_step):
                    while submitted < end_step and len(waiting) <= self._prefetch:
                        waiting.append(self._submit(pool, submitted))
                        submitted += 1
                    parts = [(source, [future.result() for future in made]) for source, made in waiting.popleft()]
                    yield [ClipBatch.of(source, made, pin_memory=self._pin_memory) for source, made in parts]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> list[tuple[int, list[Future[Example]]]]:
        parts = []
        for part in self._plan.parts_of_rank(step, self._rank, self._world_size, self._parts):
            drawn = zip(part.rows.rows_B.tolist(), part.rows.epochs_B.tolist(), strict=True)
            made = [pool.submit(self._examples.example, part.source, row, epoch) for row, epoch in drawn]
            parts.append((part.source, made))
        return parts
