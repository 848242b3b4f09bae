"""What a report on a sweep shows. A sweep fills this in; nothing here knows a search, a cluster or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raysem.reports.content import StageLine

_DECADES_OF_A_LOG_AXIS = 100.0


@dataclass(frozen=True)
class SweepKey:
    """A dotted recipe key that the sweep varies.

    Attributes:
        values: of `grid` and `choice`, in the order of the space file.
        low, high: the range of `uniform` and `loguniform`.
    """

    name: str
    kind: Literal["grid", "uniform", "loguniform", "choice"]
    values: Sequence[Any] = ()
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind in ("grid", "choice") and not self.values:
            raise ValueError(f"key {self.name}: a {self.kind} has values")
        if self.kind in ("uniform", "loguniform") and (self.low is None or self.high is None):
            raise ValueError(f"key {self.name}: {self.kind} has a range, low and high")

    @property
    def is_discrete(self) -> bool:
        """Its values are listed."""
        return self.kind in ("grid", "choice")

    @property
    def is_numeric(self) -> bool:
        """It has a place on an axis of numbers; texts, switches and whole sections have none."""
        return not self.is_discrete or all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in self.values
        )

    @property
    def is_logarithmic(self) -> bool:
        """Its axis is: it is drawn so, or its listed numbers span two decades."""
        if self.is_discrete and self.is_numeric:
            low, high = min(self.values), max(self.values)
            return bool(low > 0 and high >= _DECADES_OF_A_LOG_AXIS * low)
        return self.kind == "loguniform"


@dataclass(frozen=True)
class SweepTrial:
    """One setting with one seed: `SweepTrial(**record)` of a trial's JSON record.

    Attributes:
        params: a value for each key of the sweep, by its dotted name; values are JSON types.
        reason: why it failed or was stopped.
        metric: held-out, of the whole trial. Of a stopped trial the last that it reported; None where it has none.
        curve: `{"step", "metric"}`, by rising step.
        stages: by name "reused" (finished before, or made by another trial) or "ran", in the order of the stages.
        facts: of what was curated: "pairs", "clips", "mean_similarity", "precision", as far as they are known.
    """

    id: str
    params: Mapping[str, Any]
    seed: int | None
    status: Literal["finished", "stopped", "failed"]
    reason: str = ""
    metric: float | None = None
    curve: Sequence[Mapping[str, float]] = ()
    stages: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TestScore:
    """A number of the best trial on a test set, which was scored this once.

    Attributes:
        test_set, model, metric: such as "ESC-50, fold 5", "student", "zero-shot accuracy".
        interval: bounds at `SweepReport.interval_level`.
        detail: such as "400 clips".
        is_share: the value is one and shown in %.
    """

    __test__ = False  # not a test, whatever pytest takes its name for

    test_set: str
    model: str
    metric: str
    value: float
    interval: tuple[float, float] | None = None
    detail: str = ""
    is_share: bool = True


@dataclass(frozen=True)
class SweepReport:
    """The whole report. A part that is left empty has no section.

    Attributes:
        metric: what the sweep compares settings by, such as "held-out top1".
        metric_source: what it is measured on, such as "the held-out share of the training corpus".
        direction: "max" where more is better.
        metric_is_share: the metric is a share and shown in %.
        keys: in the order of the space file; seeds are no key here.
        best: id of the best trial; its params are the best setting.
        tests: of the best trial only.
        search, scheduler: such as "random, 60 settings" and "ASHA (grace 4, factor 3)".
        stages: those that depend on no key, run once before the trials.
        space_yaml, recipe_yaml, best_yaml: the space file, the base recipe, and the recipe of the best trial.
    """

    title: str
    subtitle: str = ""
    metric: str = "metric"
    metric_source: str = ""
    direction: Literal["max", "min"] = "max"
    metric_is_share: bool = True
    keys: Sequence[SweepKey] = ()
    trials: Sequence[SweepTrial] = ()
    best: str | None = None
    tests: Sequence[TestScore] = ()
    interval_level: float = 0.95
    search: str = ""
    scheduler: str = ""
    stages: Sequence[StageLine] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    space_yaml: str = ""
    recipe_yaml: str = ""
    best_yaml: str = ""

    def __post_init__(self) -> None:
        names = {key.name for key in self.keys}
        for trial in self.trials:
            if set(trial.params) != names:
                raise ValueError(f"trial {trial.id}: params of {sorted(trial.params)}, the keys are {sorted(names)}")
        if self.best is not None and self.best not in {trial.id for trial in self.trials}:
            raise ValueError(f"best: no trial {self.best!r}")

    @property
    def best_trial(self) -> SweepTrial | None:
        """The trial that `best` names."""
        return next((trial for trial in self.trials if trial.id == self.best), None)
