"""Scores of every clip of a table while a model trains: each exactly once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raysem.errors import RaysemError
from raysem.losses.gather import in_group
from raysem.models.protocol import exact_evaluation
from raysem.training.clips import ClipLoader, centre_crops
from raysem.training.context import TrainContext, stop_together
from raysem.training.rejects import UnusableClip
from raysem.training.table import TrainingClip

# Shapes: N clips of the table, B clips of one forward call, T samples, K classes.

Loaded = tuple[list[int], list[TrainingClip | UnusableClip], Tensor]


class ClipScores:
    """The rows of a table as batches of centre crops, shared by the ranks, and what a model makes of them."""

    def __init__(self, clips: ClipLoader, table: int, *, batch_size: int, num_threads: int):
        self.num_rows = len(clips.tables[table])
        self.unusable: dict[str, UnusableClip] = {}
        """The clips of this rank that had to be left out, by id."""
        self._clips, self._table = clips, table
        self._batch_size, self._num_threads = batch_size, num_threads

    @torch.no_grad()
    def of(
        self,
        model: nn.Module,
        score: Callable[[Tensor], Tensor],
        *,
        num_classes: int,
        crop_samples: int,
        context: TrainContext,
    ) -> tuple[np.ndarray, np.ndarray]:
        """scores_NK, float32, and which of the N clips could be used; in eval mode and fp32, the same on every rank.

        Args:
            score: scores_BK of waveform_BT on the context's device.
        """
        scores_NK = torch.zeros(self.num_rows, num_classes, device=context.device)
        scored_N = torch.zeros(self.num_rows, device=context.device)
        error = None
        try:
            with exact_evaluation(model), ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(self._num_threads) as pool:
                for rows, loaded, waveform_BT in self._batches(crop_samples, context, ahead, pool):
                    usable = [place for place, clip in enumerate(loaded) if isinstance(clip, TrainingClip)]
                    self.unusable |= {clip.clip_id: clip for clip in loaded if isinstance(clip, UnusableClip)}
                    if usable:
                        chosen = torch.tensor([rows[place] for place in usable], device=context.device)
                        scores_NK[chosen] = score(waveform_BT[usable].to(context.device)).float()
                        scored_N[chosen] = 1.0
        except RaysemError as caught:
            error = caught
        stop_together(error, context)
        if in_group():  # a row is zero on every rank but one, so the sum is exact
            dist.all_reduce(scores_NK)
            dist.all_reduce(scored_N)
        return scores_NK.cpu().numpy(), (scored_N > 0).cpu().numpy()

    def _batches(
        self, crop_samples: int, context: TrainContext, ahead: ThreadPoolExecutor, pool: ThreadPoolExecutor
    ) -> Iterator[Loaded]:
        """This rank's rows, the next batch being decoded while one is scored."""
        mine = list(range(context.rank, self.num_rows, context.world_size))
        batches = [mine[start : start + self._batch_size] for start in range(0, len(mine), self._batch_size)]

        def load(rows: list[int]) -> Loaded:
            return rows, *centre_crops(self._clips, self._table, rows, crop_samples=crop_samples, pool=pool)

        waiting: Future[Loaded] | None = None
        for number, rows in enumerate(batches):
            loaded = (waiting or ahead.submit(load, rows)).result()
            waiting = ahead.submit(load, batches[number + 1]) if number + 1 < len(batches) else None
            yield loaded
