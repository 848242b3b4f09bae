"""The inputs of a run on pairs of clips and captions: batches of the main table or the replay set, held-out pairs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from raysem.audio.load import AudioSettings
from raysem.training.clips import ClipLoader
from raysem.training.context import TrainContext
from raysem.training.draws import draw_seed
from raysem.training.examples import CaptionedCrops, Examples
from raysem.training.held_out import HeldOutPairs
from raysem.training.loader import Batches, BatchLoader
from raysem.training.measure import Measure
from raysem.training.objective import TextInputs
from raysem.training.plan import BatchPlan, StepPlan
from raysem.training.run import TrainingInputs
from raysem.training.settings import TrainingSettings
from raysem.training.table import TrainingTable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairSources:
    """The tables of a run. Each step's batch comes whole from `main`, or with `replay_probability` from `replay`."""

    main: TrainingTable
    held_out: TrainingTable | None
    replay: TrainingTable | None = None
    replay_probability: float = 0.0

    @property
    def tables(self) -> dict[str, TrainingTable]:
        """Those that there are, by name."""
        found = {"main": self.main, "replay": self.replay, "held_out": self.held_out}
        return {name: table for name, table in found.items() if table is not None}


def pair_inputs(
    sources: PairSources,
    text_inputs: TextInputs,
    *,
    audio: AudioSettings,
    crop_samples: int,
    settings: TrainingSettings,
    seed: int,
    context: TrainContext,
) -> TrainingInputs:
    """This rank's batches of the plan, and the held-out pairs if there are any; they share a cache of clips.

    `audio.sample_rate` is that of the model.
    """
    tables = list(sources.tables.values())
    clips = ClipLoader(tables, audio=audio, cache_mib=settings.cache_mib)
    plan = StepPlan(
        batch_plan(sources.main, 0, settings=settings, seed=seed, context=context),
        batch_plan(sources.replay, 1, settings=settings, seed=seed, context=context) if sources.replay else None,
        seed=seed,
        num_steps=settings.steps,
        replay_probability=sources.replay_probability,
    )
    examples = CaptionedCrops(clips, crop_samples, seed)
    measures: tuple[Measure, ...] = ()
    if sources.held_out is not None:
        held_out = HeldOutPairs(
            clips,
            len(tables) - 1,
            text_inputs,
            num_pairs=settings.held_out_pairs,
            batch_size=max(1, min(64, settings.batch_size // context.world_size)),
            num_threads=settings.loader_threads,
            seed=seed,
        )
        measures = (held_out,)
    rows = {name: len(table) for name, table in sources.tables.items()}
    return TrainingInputs(batch_loader(plan, examples, settings, context), measures, rows)


def batch_loader(plan: StepPlan, examples: Examples, settings: TrainingSettings, context: TrainContext) -> Batches:
    """This rank's batches of a plan, made where `training.decode` says."""
    if settings.decode == "cluster":
        return context.cluster_batches(plan, examples, settings)
    return BatchLoader(
        plan,
        examples,
        rank=context.rank,
        world_size=context.world_size,
        parts=settings.accumulation,
        num_threads=settings.loader_threads,
        prefetch_batches=settings.prefetch_batches,
        pin_memory=context.device.type == "cuda",
    )


def batch_plan(
    table: TrainingTable, source: int, *, settings: TrainingSettings, seed: int, context: TrainContext
) -> BatchPlan:
    """The plan of one table, said once in the log."""
    plan = BatchPlan(
        seed=draw_seed("source", seed, source),
        block_rows=table.block_rows,
        batch_size=settings.batch_size,
        window_blocks=table.window_blocks,
        parts=settings.accumulation,
    )
    if context.rank == 0:
        log.info("%s, %.1f batches of %d an epoch", table.described, plan.batches_per_epoch, plan.batch_size)
    return plan
