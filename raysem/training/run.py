"""One training run: what it is given, the same on every rank, and what it leaves when it is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import differences
from raysem.errors import ConfigError
from raysem.losses.gather import in_group
from raysem.storage import Location
from raysem.training.context import TrainContext
from raysem.training.pairs import PairTable
from raysem.training.settings import TrainingSettings

RESULT, MODEL, CHECKPOINTS = "result.json", "model", "checkpoints"

WriteModel = Callable[[Location, nn.Module, dict[str, Any]], object]


@dataclass(frozen=True)
class TrainingSources:
    """The tables of a run. Each step's batch comes whole from `main`, or with `replay_probability` from `replay`."""

    main: PairTable
    held_out: PairTable | None
    replay: PairTable | None = None
    replay_probability: float = 0.0

    @property
    def tables(self) -> dict[str, PairTable]:
        """Those that there are, by name."""
        found = {"main": self.main, "replay": self.replay, "held_out": self.held_out}
        return {name: table for name, table in found.items() if table is not None}


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What to train on, how, and where to.

    `identity` is whatever else the weights depend on (initial model, objective); `write_model` is called on rank 0 with
    the folder, the model and a summary.
    """

    sources: TrainingSources
    audio: AudioSettings
    settings: TrainingSettings
    output: Location
    seed: int
    write_model: WriteModel
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> dict[str, Any]:
        """What the weights depend on, as JSON types: a checkpoint or a result with another one is refused."""
        content = {
            "seed": self.seed,
            "training": self.settings.what_counts(),
            "audio": self.audio.model_dump(mode="json"),
            "replay_probability": self.sources.replay_probability,
            "rows": {name: len(table) for name, table in self.sources.tables.items()},
            **self.identity,
        }
        return json.loads(json.dumps(content))

    def location(self, name: str) -> Location:
        """Where a part of the run lies: RESULT, MODEL or CHECKPOINTS."""
        return storage.join(self.output, name)

    def check(self, context: TrainContext) -> None:
        """ConfigError for settings that cannot work with these sources on so many ranks."""
        check_shares(self.settings, context.world_size)
        settings = self.settings
        if self.sources.held_out is None and (settings.keep == "best" or settings.schedule.kind == "plateau"):
            raise ConfigError(
                "training.keep: best, and a plateau schedule, need held-out pairs; give some, or keep: last"
            )
        if in_group() != (context.world_size > 1):
            raise ValueError(f"world_size is {context.world_size}, but the process group says otherwise")

    def check_same(self, before: Mapping[str, Any], where: Location) -> None:
        """ConfigError unless `before`, found at `where`, is what this run's weights depend on."""
        lines = differences(before, self.known)
        if lines:
            raise ConfigError(
                f"{where}: belongs to a run with other settings ({'; '.join(lines)}); take another output"
            )


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves. `history` holds the held-out metrics of each evaluation, the first at step 0."""

    model: Location
    steps: int
    best_step: int | None
    best_metrics: dict[str, float]
    selection_metric: str
    history: list[dict[str, Any]]
    clips_loaded: int
    clips_unusable: int
    """Clips drawn that had to be replaced by others; `rejects.parquet` has each of them once."""
    unusable_outcomes: dict[str, int]
    """`clips_unusable` by outcome."""
    train_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


def finished_result(run: TrainingRun) -> TrainingResult | None:
    """The result of a run that was finished before; ConfigError if its output holds another run's."""
    location = run.location(RESULT)
    if not storage.exists(location):
        return None
    content = storage.read_json(location)
    run.check_same(content.pop("identity"), location)
    return TrainingResult(**content)


def check_shares(settings: TrainingSettings, world_size: int) -> None:
    """ConfigError unless every rank gets as many pairs of each part of a batch."""
    if settings.batch_size // settings.accumulation % world_size:
        raise ConfigError(
            f"training.batch_size: {settings.batch_size} in {settings.accumulation} part(s) cannot be shared equally "
            f"by {world_size} workers"
        )
