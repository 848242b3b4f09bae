"""A sweep as plain content that crosses processes, and the recipe and stages of each of its trials."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysem import config, storage
from raysem.config import Settings
from raysem.errors import ConfigError
from raysem.stages import Stage
from raysem.sweeps.measured import (
    CURATED,
    MeasuredJob,
    check_metric,
    check_recipe,
    job_of,
    model_stages,
    needed_stages,
)
from raysem.sweeps.space import SweepSpace, check_values
from raysem.sweeps.trial import Trial

RUN = "run"


@dataclass(frozen=True)
class SweepPlan:
    """A space, the content of its base recipe with what every trial has, and the sweep's output."""

    space: SweepSpace
    base: Mapping[str, Any]
    output: storage.Location

    @classmethod
    def of(
        cls, space: SweepSpace, content: Mapping[str, Any], output: storage.Location, overrides: Sequence[str] = ()
    ) -> SweepPlan:
        """With the space's own keys, then those of `--set`, over the recipe's `content`.

        Raises:
            ConfigError: a key of the command line is swept, or the job or the metric is not known.
        """
        job = job_of(space.job)
        check_metric(job, space.metric, space.direction)
        given = [config.parse_override(text) for text in overrides]
        for key, _ in given:
            if key in space.keys:
                raise ConfigError(f"--set {key}: the space sweeps it")
        base = config.with_overrides(content, [*space.set.items(), *given, *job.forced.items()])
        return cls(space, base, output)

    @property
    def job(self) -> MeasuredJob:
        """The job of the space."""
        return job_of(self.space.job)

    @property
    def only_selects(self) -> bool:
        """The metric is one of the curated set: nothing is trained."""
        return self.space.metric in CURATED

    @property
    def run(self) -> storage.Location:
        """The one output of all trials, so that they share their stages."""
        return storage.join(self.output, RUN)

    @functools.cached_property
    def base_recipe(self) -> Settings:
        """The recipe without any trial's values."""
        return config.build(self.job.job.recipe_type, self.base)

    def recipe(self, trial: Trial) -> Settings:
        """The full recipe of a trial.

        Raises:
            ConfigError: its values do not go together.
        """
        content = config.with_overrides(self.base, trial.overrides)
        return config.build(self.job.job.recipe_type, content, f"trial {trial}")

    def stages(self, trial: Trial) -> list[Stage]:
        """All stages that the job would run for a trial."""
        return self.job.job.stages(self.recipe(trial), self.run)

    def needed(self, trial: Trial) -> list[Stage]:
        """The stages that a trial runs."""
        return needed_stages(self.job, self.stages(trial))

    def trained(self, trial: Trial) -> list[Stage]:
        """Of these, the ones that the metric is measured by."""
        return model_stages(self.job, self.stages(trial))

    def check(self, where: str) -> list[Trial]:
        """Build recipe and stages of every trial that can be known before; returns them, for tpe those at its ends.

        Raises:
            ConfigError: a key or value is wrong, values do not go together, or the scheduler has no curve to look at.
        """
        check_values(self.space, self.job.job.recipe_type, self.base, where)
        trials = self.space.trials() if self.space.search.kind != "tpe" else self._corners()
        trained = 0
        for trial in trials:
            recipe = self.recipe(trial)
            if not self.only_selects:
                check_recipe(self.job, recipe)
            trained = max(trained, len(model_stages(self.job, self.job.job.stages(recipe, self.run))))
        scheduler = self.space.scheduler.kind
        if scheduler != "none" and self.only_selects:
            raise ConfigError(f"scheduler.kind: {self.space.metric} has no curve, nothing can be stopped early")
        if scheduler != "none" and trained > 1:
            raise ConfigError(
                f"scheduler.kind: {scheduler} follows one training a trial, this recipe has {trained} "
                "(folds.test: [1] tests one fold)"
            )
        if self.only_selects and self.space.search.kind == "tpe":
            raise ConfigError(f"search.kind: tpe for {self.space.metric}, which is cheap; take grid or random")
        return trials

    def _corners(self) -> list[Trial]:
        """Each key's values beside the first ones of the others."""
        first = {name: key.examples()[0] for name, key in self.space.swept.items()}
        settings = [first | {name: value} for name, key in self.space.swept.items() for value in key.examples()]
        found = [Trial(params, seed) for params in settings for seed in self.space.seeds]
        return list({trial.id: trial for trial in found}.values())


def common_stages(lists: Sequence[Sequence[Stage]]) -> list[Stage]:
    """The stages that are in each of `lists` with the same digest, in the order of the first."""
    shared = set.intersection(*({(stage.name, stage.digest) for stage in stages} for stages in lists))
    return [stage for stage in lists[0] if (stage.name, stage.digest) in shared]
