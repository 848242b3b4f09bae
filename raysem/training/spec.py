"""A training run as plain settings and locations, and how it runs in one process without Ray."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import digest, plain
from raysem.errors import ConfigError
from raysem.models.checkpoint import fingerprint, load_model, save_model
from raysem.models.clap import Clap, ClapSettings
from raysem.models.start import build_clap
from raysem.storage import Location
from raysem.training.context import LocalContext, TrainContext
from raysem.training.draws import draw_seed
from raysem.training.loop import train
from raysem.training.objective import ContrastiveObjective, ObjectiveSettings, build_objective
from raysem.training.pair_inputs import PairSources, pair_inputs
from raysem.training.run import TrainingResult, TrainingRun
from raysem.training.settings import TrainingSettings
from raysem.training.table import TrainingTable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSpec:
    """Everything that decides what a run trains; it crosses processes, and holds no tensor.

    The model starts from `initial_model`, a raysem checkpoint (a student warm-starts from its teacher), or fresh from
    `model`, whose `audio_weights` may name a PANNs checkpoint. Soft labels come from `teacher`, a raysem checkpoint;
    without one, from a frozen copy of the initial model, as in the paper.
    """

    output: Location
    """The run's own folder: model/, result.json, metrics.jsonl, rejects.parquet, tensorboard/, checkpoints/."""
    sources: tuple[Location, ...]
    """Parquet files or folders, as CLIPS with captions or as IMPROVEMENT_SET; one table together."""
    held_out: tuple[Location, ...]
    seed: int = 0
    replay: tuple[Location, ...] = ()
    initial_model: Location | None = None
    model: ClapSettings | None = None
    teacher: Location | None = None
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    name: str = "training"
    """For logs, and for the name of the Ray Train run."""

    def __post_init__(self) -> None:
        if (self.initial_model is None) == (self.model is None):
            raise ConfigError(f"{self.name}: give either initial_model (a checkpoint) or model (settings), not both")
        if self.objective.soft_label_weight > 0 and self.teacher is None and self.initial_model is None:
            raise ConfigError(f"{self.name}: soft labels need a teacher: give teacher or initial_model")
        if self.training.selection_metric not in ("held_out_loss", "recall_at_1"):
            raise ConfigError(
                f"{self.name}: training.selection_metric {self.training.selection_metric} is measured on tags; take "
                "held_out_loss or recall_at_1"
            )
        if self.objective.replay_probability > 0 and not self.replay:
            raise ConfigError(f"{self.name}: replay_probability needs replay tables")
        for name in ("sources", "held_out", "replay"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{self.name}: {name} is a tuple of locations, not one of them")

    def train(self, context: TrainContext) -> TrainingResult:
        """One rank's share of the run."""
        return train_spec(self, context)

    @property
    def run_name(self) -> str:
        """`name` with a digest of the settings: the same for the same run, another for another."""
        content = {name: plain(value) if hasattr(value, "model_dump") else value for name, value in vars(self).items()}
        return f"{self.name}-{digest(content)}"


def train_in_process(spec: TrainingSpec, *, device: str | torch.device | None = None) -> TrainingResult:
    """The run in this process, alone or as a rank of its process group; by default on its GPU if there is one."""
    return train_spec(spec, LocalContext.current(device))


def train_spec(spec: TrainingSpec, context: TrainContext) -> TrainingResult:
    """One rank's share of the run."""
    model = build_initial_model(spec).to(context.device)
    teacher_from = spec.teacher or spec.initial_model

    def load_teacher() -> nn.Module:
        assert teacher_from is not None  # the spec was checked
        return load_model(teacher_from, context.device)

    objective = build_objective(
        model,
        spec.objective,
        context.device,
        load_teacher=load_teacher,
        text_cache_mib=spec.training.text_cache_mib,
    )
    audio = spec.audio.model_copy(update={"sample_rate": model.sample_rate})
    sources = _sources(spec)
    run = TrainingRun(
        inputs=pair_inputs(
            sources,
            cast(ContrastiveObjective, objective).text_inputs,
            audio=audio,
            crop_samples=model.crop_samples,
            settings=spec.training,
            seed=spec.seed,
            context=context,
        ),
        settings=spec.training,
        output=storage.absolute(spec.output),
        seed=spec.seed,
        write_model=_write_model,
        identity={
            "objective": plain(spec.objective),
            "initial_model": fingerprint(model),
            "audio": plain(audio),
            "replay_probability": sources.replay_probability,
        },
    )
    return train(model, objective, run, context)


def _sources(spec: TrainingSpec) -> PairSources:
    def table(locations: tuple[Location, ...], what: str) -> TrainingTable:
        return TrainingTable(locations, memory_mib=spec.training.table_memory_mib, name=f"{spec.name} {what}")

    replayed = spec.objective.replay_probability > 0
    return PairSources(
        main=table(spec.sources, "pairs"),
        held_out=table(spec.held_out, "held-out pairs") if spec.held_out else None,
        replay=table(spec.replay, "replay pairs") if replayed else None,
        replay_probability=spec.objective.replay_probability,
    )


def _write_model(folder: Location, model: nn.Module, summary: dict[str, Any]) -> None:
    save_model(folder, cast(Clap, model), summary)


def build_initial_model(spec: TrainingSpec) -> Clap:
    """The model before its first step, on the CPU; fresh weights are fixed by the seed."""
    if spec.initial_model is not None:
        return load_model(spec.initial_model)
    assert spec.model is not None  # the spec was checked
    return build_clap(spec.model, seed=draw_seed("initial weights", spec.seed))
