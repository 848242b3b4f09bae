"""The trials of a sweep by setting: what differs only in its seed belongs together."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial


@dataclass(frozen=True)
class SweepSetting:
    """A value for each key, and its trials in the order of their seeds."""

    params: Mapping[str, Any]
    trials: Sequence[SweepTrial]

    @property
    def metrics(self) -> list[float]:
        """Of the finished trials. What was stopped early was trained for less and is never averaged with them."""
        return [value for trial in self.trials if (value := finished_metric(trial)) is not None]

    @property
    def mean(self) -> float | None:
        """Over the finished seeds; None where there is none."""
        return mean(self.metrics) if self.metrics else None

    @property
    def deviation(self) -> float | None:
        """The sample's, over the finished seeds; None below two of them."""
        return deviation(self.metrics)

    @property
    def status(self) -> Literal["finished", "stopped", "failed"]:
        """The best end that any of its seeds had."""
        ends = {trial.status for trial in self.trials}
        return "finished" if self.metrics else "stopped" if "stopped" in ends else "failed"

    @property
    def ran(self) -> dict[str, int]:
        """By stage, how many of the trials ran it themselves; 0 where all reused it."""
        counts = Counter(stage for trial in self.trials for stage, how in trial.stages.items() if how == "ran")
        return {stage: counts[stage] for trial in self.trials for stage in trial.stages}

    @property
    def seconds(self) -> float:
        """Of all its trials together."""
        return sum(trial.seconds for trial in self.trials)


def settings_of(report: SweepReport) -> list[SweepSetting]:
    """The best mean first; then those of which no seed finished, stopped before failed."""
    groups: dict[tuple[str, ...], list[SweepTrial]] = {}
    for trial in report.trials:
        groups.setdefault(setting_key(trial.params), []).append(trial)
    settings = [
        SweepSetting(trials[0].params, sorted(trials, key=lambda trial: (trial.seed is not None, trial.seed or 0)))
        for trials in groups.values()
    ]
    sign = -1 if report.direction == "max" else 1
    order = ("finished", "stopped", "failed")
    return sorted(settings, key=lambda setting: (order.index(setting.status), sign * (setting.mean or 0)))


def is_best(report: SweepReport, setting: SweepSetting) -> bool:
    """It is the setting of the best trial."""
    best = report.best_trial
    return best is not None and setting_key(best.params) == setting_key(setting.params)


def finished_metric(trial: SweepTrial) -> float | None:
    """None of a trial that did not finish, and of one whose metric is no finite number."""
    return known_metric(trial) if trial.status == "finished" else None


def known_metric(trial: SweepTrial) -> float | None:
    """The metric of a trial that finished or was stopped; None where it has none that is a finite number."""
    known = trial.metric is not None and math.isfinite(trial.metric) and trial.status != "failed"
    return trial.metric if known else None


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; None below two values."""
    return stdev(values) if len(values) > 1 else None


def setting_key(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The same for the same setting."""
    return tuple(f"{name}={value_key(params[name])}" for name in sorted(params))


def values_of(report: SweepReport, key: SweepKey) -> list[Any]:
    """Those listed, run or not, and what trials have beside them; numbers by size."""
    found = {value_key(value): value for value in [*key.values, *(trial.params[key.name] for trial in report.trials)]}
    return sorted(found.values()) if key.is_numeric else list(found.values())


def value_key(value: Any) -> str:
    """The same for the same value: 0 and 0.0 are one, 1 and true are two."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True)
