"""A training run of a classifier as plain settings and locations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from pydantic import PositiveInt
from torch import nn

from raysem import storage
from raysem.audio.augment import AugmentSettings
from raysem.audio.load import AudioSettings
from raysem.config import digest, plain
from raysem.errors import ConfigError, DataError
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_checkpoint import save_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.layer_depth import layer_depths
from raysem.storage import Location
from raysem.training.classifier_measure import ClassMeasure
from raysem.training.classifier_objective import ClassifierObjectiveSettings, LinearObjective, PromptObjective
from raysem.training.clips import ClipLoader
from raysem.training.context import TrainContext
from raysem.training.draws import draw_seed
from raysem.training.loop import train
from raysem.training.objective import Objective
from raysem.training.pair_inputs import batch_loader, batch_plan
from raysem.training.plan import StepPlan
from raysem.training.run import TrainingInputs, TrainingResult, TrainingRun
from raysem.training.settings import TrainingSettings
from raysem.training.table import TrainingTable
from raysem.training.tag_examples import MixupSettings, TaggedCrops

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """Everything that decides what a run trains; it crosses processes, and holds no tensor."""

    output: Location
    """The run's own folder, as a `TrainingSpec` has it."""
    labels: tuple[str, ...]
    """K different labels, in the order of the outputs."""
    sources: tuple[Location, ...]
    """CLIPS tables whose clips have one of the labels each, as Parquet files or folders; one table together."""
    held_out: tuple[Location, ...] = ()
    """Clips by which the best step is chosen; without any, `training.keep` has to be `last`."""
    seed: int = 0
    model: ClassifierSettings = field(default_factory=ClassifierSettings)
    objective: ClassifierObjectiveSettings = field(default_factory=ClassifierObjectiveSettings)
    augmentation: AugmentSettings = field(default_factory=AugmentSettings)
    epochs: PositiveInt | None = None
    """The number of steps and those of one decay follow from it; None: as `training` says."""
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(selection_metric="accuracy"))
    audio: AudioSettings = field(default_factory=AudioSettings)
    name: str = "classifier"
    """For logs, and for the name of the Ray Train run."""

    def __post_init__(self) -> None:
        if self.held_out and self.training.selection_metric != "accuracy":
            raise ConfigError(
                f"{self.name}: training.selection_metric {self.training.selection_metric} is not measured on "
                "classes; take accuracy"
            )

    @property
    def run_name(self) -> str:
        """`name` with a digest of the settings: the same for the same run, another for another."""
        content = {name: plain(value) if hasattr(value, "model_dump") else value for name, value in vars(self).items()}
        return f"{self.name.replace('/', '-')}-{digest(content)}"

    def train(self, context: TrainContext) -> TrainingResult:
        """One rank's share of the run."""
        seed = draw_seed("initial weights", self.seed)
        classifier = build_classifier(self.model, self.labels, seed=seed, key="model.start").to(context.device)
        audio = self.audio.model_copy(update={"sample_rate": classifier.sample_rate})
        tables = {"main": self._table(self.sources, "clips")}
        if self.held_out:
            tables["held_out"] = self._table(self.held_out, "held_out")
        settings = with_epochs(self.training, self.epochs, len(tables["main"]))
        run = TrainingRun(
            inputs=self._inputs(tables, classifier, settings, audio, context),
            settings=settings,
            output=storage.absolute(self.output),
            seed=self.seed,
            write_model=_write_model,
            identity={
                "objective": plain(self.objective),
                "initial_model": classifier.fingerprint(),
                "audio": plain(audio),
                "augmentation": plain(self.augmentation),
            },
            layer_depths=layer_depths(classifier) if settings.layer_decay < 1 else None,
        )
        objective: Objective = (
            PromptObjective(classifier, self.objective, context.device, text_cache_mib=settings.text_cache_mib)
            if classifier.reads_text
            else LinearObjective(classifier, context.device)
        )
        return train(classifier, objective, run, context)

    def _inputs(
        self,
        tables: dict[str, TrainingTable],
        classifier: Classifier,
        settings: TrainingSettings,
        audio: AudioSettings,
        context: TrainContext,
    ) -> TrainingInputs:
        places = {name: places_of(table.all_texts(), self.labels, where=table.name) for name, table in tables.items()}
        clips = ClipLoader(list(tables.values()), audio=audio, cache_mib=settings.cache_mib)
        plan = StepPlan(
            batch_plan(tables["main"], 0, settings=settings, seed=self.seed, context=context), None,
            seed=self.seed, num_steps=settings.steps, replay_probability=0.0,
        )  # fmt: skip
        examples = TaggedCrops(clips, classifier.crop_samples, self.seed, self.augmentation, MixupSettings())
        measures: tuple[ClassMeasure, ...] = ()
        if "held_out" in tables:
            batch_size = max(1, min(64, settings.batch_size // context.world_size))
            measure = ClassMeasure(
                clips, 1, places["held_out"], name="held_out", batch_size=batch_size,
                num_threads=settings.loader_threads,
            )  # fmt: skip
            measures = (measure,)
        rows = {name: len(table) for name, table in tables.items()}
        return TrainingInputs(batch_loader(plan, examples, settings, context), measures, rows)

    def _table(self, locations: Sequence[Location], what: str) -> TrainingTable:
        memory_mib = self.training.table_memory_mib
        return TrainingTable(locations, texts="labels", memory_mib=memory_mib, name=f"{self.name} {what}")


def with_epochs(settings: TrainingSettings, epochs: int | None, num_clips: int) -> TrainingSettings:
    """The settings with as many steps as the epochs have, and an exponential schedule that decays after each.

    An epoch has num_clips / batch_size steps; both numbers are rounded to whole steps, the decay's for every epoch.
    """
    if epochs is None:
        return settings
    steps_an_epoch = num_clips / settings.batch_size
    schedule = settings.schedule
    if schedule.kind == "exponential":
        schedule = schedule.model_copy(update={"steps_per_decay": max(1, round(steps_an_epoch))})
    return settings.model_copy(update={"steps": max(1, round(epochs * steps_an_epoch)), "schedule": schedule})


def places_of(labels: Sequence[Sequence[str]], known: Sequence[str], *, where: str) -> np.ndarray:
    """The place of each clip's label among the known ones.

    Raises:
        DataError: a clip has no label, several, or one that is not known.
    """
    place_of = {label: place for place, label in enumerate(known)}
    for row, names in enumerate(labels):
        if len(names) != 1:
            raise DataError(f"{where}: row {row} has {len(names)} labels, expected one: {list(names)[:5]}")
        if names[0] not in place_of:
            raise DataError(f"{where}: row {row} has label {names[0]!r}, which is none of the {len(known)} labels")
    return np.array([place_of[names[0]] for names in labels])


def _write_model(folder: Location, model: nn.Module, summary: dict[str, Any]) -> None:
    save_classifier(folder, cast(Classifier, model), summary)
