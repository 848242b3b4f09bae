"""A training run of a tagger as plain settings and locations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from torch import nn

from raysem import storage
from raysem.audio.augment import AugmentSettings
from raysem.audio.load import AudioSettings
from raysem.config import digest, plain
from raysem.errors import ConfigError
from raysem.models.layer_depth import layer_depths
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import load_tagger, save_tagger
from raysem.ontology.tag_classes import TagClasses
from raysem.storage import Location
from raysem.training.clips import ClipLoader
from raysem.training.context import TrainContext
from raysem.training.draws import draw_seed
from raysem.training.loop import train
from raysem.training.pair_inputs import batch_loader, batch_plan
from raysem.training.plan import Plan, SampledPlan, StepPlan
from raysem.training.run import TrainingInputs, TrainingResult, TrainingRun
from raysem.training.sampling import balanced_weights
from raysem.training.settings import TrainingSettings
from raysem.training.table import TrainingTable
from raysem.training.tag_examples import MixupSettings, TaggedCrops
from raysem.training.tag_measure import TagMeasure
from raysem.training.tag_objective import TaggingObjective, TagObjectiveSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TaggingSpec:
    """Everything that decides what a run trains; it crosses processes, and holds no tensor."""

    output: Location
    """The run's own folder, as a `TrainingSpec` has it."""
    classes: Location
    """Folder of a `TagClasses`."""
    sources: tuple[Location, ...]
    """CLIPS tables with labels, as Parquet files or folders; one table together."""
    held_out: tuple[Location, ...] = ()
    """Clips by which the best step is chosen; none: the last step is kept."""
    watched: dict[str, tuple[Location, ...]] = field(default_factory=dict)
    """Sets that are measured at each evaluation, and choose nothing."""
    seed: int = 0
    model: TaggerSettings = field(default_factory=TaggerSettings)
    initial_model: Location | None = None
    """A raysem tagger to start from, with the same classes and settings; None: fresh from `model`."""
    objective: TagObjectiveSettings = field(default_factory=TagObjectiveSettings)
    sampling: Literal["uniform", "balanced"] = "uniform"
    augmentation: AugmentSettings = field(default_factory=AugmentSettings)
    mixup: MixupSettings = field(default_factory=MixupSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    name: str = "tagger"
    """For logs, and for the name of the Ray Train run."""

    def __post_init__(self) -> None:
        taken = [name for name in ("main", "held_out", "train") if name in self.watched]
        if taken:  # a watched set in the place of one of these would be trained on, or choose
            raise ConfigError(
                f"{self.name}: an evaluation set cannot be called {taken[0]}, which names a part of training"
            )
        if self.held_out and self.training.selection_metric not in ("map", "omap"):
            raise ConfigError(
                f"{self.name}: training.selection_metric {self.training.selection_metric} is measured on pairs; take "
                "map or omap"
            )

    @property
    def run_name(self) -> str:
        """`name` with a digest of the settings: the same for the same run, another for another."""
        content = {name: plain(value) if hasattr(value, "model_dump") else value for name, value in vars(self).items()}
        return f"{self.name}-{digest(content)}"

    def train(self, context: TrainContext) -> TrainingResult:
        """One rank's share of the run."""
        classes = TagClasses.read(self.classes)
        tagger = self._initial(classes).to(context.device)
        audio = self.audio.model_copy(update={"sample_rate": tagger.sample_rate})
        run = TrainingRun(
            inputs=self._inputs(tagger, classes, audio, context),
            settings=self.training,
            output=storage.absolute(self.output),
            seed=self.seed,
            write_model=self._write_model,
            identity={
                "objective": plain(self.objective),
                "initial_model": tagger.fingerprint(),
                "classes": classes.digest,
                "audio": plain(audio),
                "sampling": self.sampling,
                "augmentation": plain(self.augmentation),
                "mixup": plain(self.mixup),
            },
            layer_depths=layer_depths(tagger) if self.training.layer_decay < 1 else None,
        )
        objective = TaggingObjective(tagger, classes, self.objective, context.device)
        return train(tagger, objective, run, context)

    def _initial(self, classes: TagClasses) -> Tagger:
        if self.initial_model is None:
            width = classes.text_KD.shape[1] if classes.text_KD is not None else None
            seed = draw_seed("initial weights", self.seed)
            return build_tagger(self.model, classes.names, classes.ids, width, seed=seed, key="model.start")
        tagger = load_tagger(self.initial_model)
        if tagger.class_names != classes.names:
            raise ConfigError(f"{self.initial_model}: has other classes than this run")
        return tagger

    def _inputs(
        self, tagger: Tagger, classes: TagClasses, audio: AudioSettings, context: TrainContext
    ) -> TrainingInputs:
        measured = {"held_out": self.held_out} if self.held_out else {}
        measured |= self.watched
        tables = {"main": self._table(self.sources, "clips")}
        tables |= {name: self._table(locations, name) for name, locations in measured.items()}
        labels = tables["main"].all_texts()
        classes.targets(labels, where=tables["main"].name)  # an unknown label is said before the first step
        settings = self.training
        clips = ClipLoader(list(tables.values()), audio=audio, cache_mib=settings.cache_mib)
        plan = StepPlan(
            self._plan(tables["main"], labels, context), None, seed=self.seed, num_steps=settings.steps,
            replay_probability=0.0,
        )  # fmt: skip
        examples = TaggedCrops(clips, tagger.crop_samples, self.seed, self.augmentation, self.mixup)
        measures = tuple(
            TagMeasure(
                clips,
                place,
                classes,
                name=name,
                chooses=name == "held_out",
                batch_size=max(1, min(64, settings.batch_size // context.world_size)),
                num_threads=settings.loader_threads,
            )
            for place, name in enumerate(measured, 1)
        )
        rows = {name: len(table) for name, table in tables.items()}
        return TrainingInputs(batch_loader(plan, examples, settings, context), measures, rows)

    def _table(self, locations: Sequence[Location], what: str) -> TrainingTable:
        memory_mib = self.training.table_memory_mib
        return TrainingTable(locations, texts="labels", memory_mib=memory_mib, name=f"{self.name} {what}")

    def _plan(self, table: TrainingTable, labels: Sequence[Sequence[str]], context: TrainContext) -> Plan:
        if self.sampling == "uniform":
            return batch_plan(table, 0, settings=self.training, seed=self.seed, context=context)
        if context.rank == 0:
            log.info("%s, drawn with weights that balance the classes", table.described)
        return SampledPlan(
            seed=draw_seed("source", self.seed, 0),
            weights=balanced_weights(labels),
            block_rows=table.block_rows,
            batch_size=self.training.batch_size,
            window_blocks=table.window_blocks,
            parts=self.training.accumulation,
        )

    def _write_model(self, folder: Location, model: nn.Module, summary: dict[str, Any]) -> None:
        classes = TagClasses.read(self.classes)
        parents = {name: list(names) for name, names in zip(classes.names, classes.parents, strict=True)}
        save_tagger(folder, cast(Tagger, model), summary | {"parents": parents})
