"""One training run: what it is given, the same on every rank, and what it leaves when it is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from raysem import storage
from raysem.config import differences
from raysem.errors import ConfigError
from raysem.losses.gather import in_group
from raysem.storage import Location
from raysem.training.context import TrainContext
from raysem.training.loader import Batches
from raysem.training.measure import Measure
from raysem.training.settings import TrainingSettings

RESULT, MODEL, CHECKPOINTS = "result.json", "model", "checkpoints"

WriteModel = Callable[[Location, nn.Module, dict[str, Any]], object]


@dataclass(frozen=True)
class TrainingInputs:
    """What a run learns from and is measured on: this rank's share of them."""

    batches: Batches
    measures: tuple[Measure, ...]
    rows: Mapping[str, int]
    """The size of each table, by name."""

    @property
    def chooser(self) -> Measure | None:
        """The measure by which the best step is chosen."""
        return next((measure for measure in self.measures if measure.chooses), None)


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What to train on, how, and where to.

    `identity` is whatever else the weights depend on (initial model, objective, audio); `write_model` is called on rank
    0 with the folder, the model and a summary. `layer_depths` gives each trained parameter its layer, for
    `training.layer_decay`.
    """

    inputs: TrainingInputs
    settings: TrainingSettings
    output: Location
    seed: int
    write_model: WriteModel
    identity: Mapping[str, Any] = field(default_factory=dict)
    layer_depths: Mapping[str, int] | None = None

    @property
    def known(self) -> dict[str, Any]:
        """What the weights depend on, as JSON types: a checkpoint or a result with another one is refused."""
        content = {
            "seed": self.seed,
            "training": self.settings.what_counts(),
            "rows": dict(self.inputs.rows),
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
        if self.inputs.chooser is None and (settings.keep == "best" or settings.schedule.kind == "plateau"):
            raise ConfigError(
                "training.keep: best, and a plateau schedule, need held-out clips; give some, or keep: last"
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
    """What a finished run leaves. `history` holds what was measured at each evaluation, the first at step 0."""

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
