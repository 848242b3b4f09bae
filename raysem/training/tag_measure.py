"""Measuring a tagger while it trains: every clip of a table exactly once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raysem.errors import DataError, RaysemError
from raysem.losses.gather import in_group
from raysem.metrics.ontology_aware import tagging_precision
from raysem.models.protocol import exact_evaluation
from raysem.models.tagger import Tagger
from raysem.ontology.tag_classes import TagClasses
from raysem.training.clips import ClipLoader, centre_crops
from raysem.training.context import TrainContext, stop_together
from raysem.training.rejects import UnusableClip
from raysem.training.table import TrainingClip

# Shapes: N clips of the table, B clips of one forward call, K classes.

Loaded = tuple[list[int], list[TrainingClip | UnusableClip], Tensor]


class TagMeasure:
    """A `Measure`: mAP and OmAP over the whole table, one centre crop a clip.

    A clip that cannot be used is left out; `clips` says how many are in.
    """

    def __init__(
        self,
        clips: ClipLoader,
        table: int,
        classes: TagClasses,
        *,
        name: str,
        chooses: bool,
        batch_size: int,
        num_threads: int,
    ):
        self.name, self.chooses = name, chooses
        self.num_rows = len(clips.tables[table])
        self.unusable: dict[str, UnusableClip] = {}
        self._clips, self._table, self._classes = clips, table, classes
        self._batch_size, self._num_threads = batch_size, num_threads
        where = clips.tables[table].name
        self._targets_NK = classes.targets(clips.tables[table].all_texts(), where=where)

    @torch.no_grad()
    def measure(self, model: nn.Module, context: TrainContext) -> dict[str, float]:
        """map, omap and clips of `model` in eval mode and fp32; the ranks share the clips, and get the same result."""
        tagger = cast(Tagger, model)
        scores_NK = torch.zeros(self.num_rows, len(self._classes), device=context.device)
        scored_N = torch.zeros(self.num_rows, device=context.device)
        error = None
        try:
            with exact_evaluation(model), ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(self._num_threads) as pool:
                for rows, loaded, waveform_BT in self._batches(tagger.crop_samples, context, ahead, pool):
                    usable = [place for place, clip in enumerate(loaded) if isinstance(clip, TrainingClip)]
                    self.unusable |= {clip.clip_id: clip for clip in loaded if isinstance(clip, UnusableClip)}
                    if usable:
                        logits_BK = tagger(waveform_BT[usable].to(context.device)).logits_BK
                        chosen = torch.tensor([rows[place] for place in usable], device=context.device)
                        scores_NK[chosen], scored_N[chosen] = logits_BK.float(), 1.0
        except RaysemError as caught:
            error = caught
        stop_together(error, context)
        if in_group():  # a row is zero on every rank but one, so the sum is exact
            dist.all_reduce(scores_NK)
            dist.all_reduce(scored_N)
        present_N = (scored_N > 0).cpu().numpy()
        targets_NK = self._targets_NK[present_N]
        if not targets_NK.any():
            raise DataError(f"{self._clips.tables[self._table].name}: no usable clip has a label")
        return self._metrics(scores_NK.cpu().numpy()[present_N], targets_NK)

    def _metrics(self, scores_NK: np.ndarray, targets_NK: np.ndarray) -> dict[str, float]:
        clips = float(len(scores_NK))
        if not np.isfinite(scores_NK).all():  # the loop stops with its step where such a metric chooses
            return {"map": float("nan"), "omap": float("nan"), "clips": clips}
        precision = tagging_precision(scores_NK, targets_NK, self._classes.distance_KK)
        return {"map": precision.mean_average_precision, "omap": precision.ontology_aware, "clips": clips}

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
