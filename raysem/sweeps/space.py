"""A space file: which keys of a recipe a sweep varies, how it searches, and by which metric. It knows no recipe."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from raysem import config
from raysem.config import Settings
from raysem.errors import ConfigError, UserError
from raysem.sweeps.trial import SEED, Trial

Form = Literal["grid", "choice", "uniform", "loguniform"]
FORMS: tuple[Form, ...] = ("grid", "choice", "uniform", "loguniform")
DRAWN_DIGITS = 6


class KeySettings(Settings):
    """The values of one dotted key, in exactly one of four forms."""

    grid: tuple[Any, ...] | None = None
    """Each value, with each value of the other grids."""
    choice: tuple[Any, ...] | None = None
    """Values to draw from; with search grid the same as a grid."""
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        forms = [form for form in FORMS if getattr(self, form) is not None]
        if len(forms) != 1:
            raise ValueError(f"expected one of {', '.join(FORMS)}, got {', '.join(forms) or 'none'}")
        if self.is_listed:
            texts = [json.dumps(value, sort_keys=True) for value in self.values]
            if not texts:
                raise ValueError(f"{self.form}: is empty")
            twice = next((text for place, text in enumerate(texts) if text in texts[:place]), None)
            if twice is not None:
                raise ValueError(f"{self.form}: {twice} is listed twice")
        else:
            low, high = self.range
            if not low < high:
                raise ValueError(f"{self.form}: the range [{low:g}, {high:g}] is empty")
            if self.form == "loguniform" and low <= 0:
                raise ValueError(f"loguniform: the range [{low:g}, {high:g}] has to begin above 0")
        return self

    @property
    def form(self) -> Form:
        """Which of the four."""
        return next(form for form in FORMS if getattr(self, form) is not None)

    @property
    def is_listed(self) -> bool:
        """grid or choice."""
        return self.form in ("grid", "choice")

    @property
    def values(self) -> tuple[Any, ...]:
        """Of a grid or a choice."""
        return self.grid if self.grid is not None else self.choice or ()

    @property
    def range(self) -> tuple[float, float]:
        """Of uniform and loguniform."""
        return self.uniform or self.loguniform or (math.nan, math.nan)

    def examples(self) -> list[Any]:
        """Values that are allowed if all are: each listed one, or both ends of a range and one within."""
        if self.is_listed:
            return list(self.values)
        low, high = self.range
        return [low, _rounded(low + 0.3719 * (high - low)), high]

    def drawn(self, share: float) -> Any:
        """The value at `share` (0 to 1) of the range or of the list, a number rounded to six digits."""
        if self.is_listed:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        low, high = self.range
        value = low + share * (high - low) if self.form == "uniform" else low * (high / low) ** share
        return min(max(_rounded(value), low), high)


class SearchSettings(Settings):
    """In which order settings are tried."""

    kind: Literal["grid", "random", "tpe"] = "grid"
    """grid: every combination of the listed values. random: draws; keys with a grid are crossed with each draw. tpe:
    Optuna's tree-structured Parzen estimator, which learns from finished trials."""
    trials: PositiveInt | None = None
    """Settings to draw, for random and tpe; each is tried with every seed."""
    seed: NonNegativeInt = 0
    """Of the draws; not the recipe's."""


class SchedulerSettings(Settings):
    """Which trials are stopped before their training ends, judged by what they measured so far."""

    kind: Literal["none", "asha", "median"] = "none"
    """asha: successive halving, asynchronous (arXiv 1810.05934). median: below the median of the others' averages."""
    grace_steps: PositiveInt | None = None
    """Training steps before a trial may be stopped; null: the first evaluation."""
    reduction_factor: int = Field(3, ge=2)
    """asha: one of so many goes on at each rung."""
    min_trials: PositiveInt = 3
    """median: trials to compare with."""


class SweepSpace(Settings):
    """A sweep over one recipe of one job."""

    title: str = "Sweep"
    job: str = "curate_and_train"
    recipe: str = ""
    """Path of the base recipe, from the folder of the space file; empty: the job's default."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of the recipe that all trials have."""
    keys: dict[str, KeySettings] = Field(min_length=1)
    """Dotted keys of the recipe and their values. `seed` is a key like any other, but results are means over it."""
    metric: str
    """A held-out metric of the trained model, or a number of the curated set: then nothing is trained."""
    direction: Literal["max", "min"] = "max"
    search: SearchSettings = SearchSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    max_failed_trials: NonNegativeInt = 2
    """The sweep stops when more trials have failed."""

    @field_validator("keys")
    @classmethod
    def _do_not_overlap(cls, keys: dict[str, KeySettings]) -> dict[str, KeySettings]:
        for first, second in itertools.permutations(keys, 2):
            if second.startswith(f"{first}."):
                raise ValueError(f"{first}: holds {second}, which is swept too")
        seeds = keys.get(SEED)
        if seeds is not None and (
            seeds.form != "grid" or not all(type(value) is int and value >= 0 for value in seeds.values)
        ):
            raise ValueError("seed: expected a grid of whole numbers, every setting is tried with each")
        if set(keys) == {SEED}:
            raise ValueError("seed: is the only key; a sweep has one more, whose settings are compared")
        return keys

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        swept = {name: key for name, key in self.keys.items() if name != SEED}
        ranges = [name for name, key in swept.items() if not key.is_listed]
        grids = [name for name, key in swept.items() if key.form == "grid"]
        kind = self.search.kind
        if kind == "grid" and ranges:
            raise ValueError(f"keys.{ranges[0]}: search grid needs a list of values; or search random or tpe")
        if (kind == "grid") != (self.search.trials is None):
            raise ValueError(f"search.trials: search {kind} " + ("tries all" if kind == "grid" else "needs a number"))
        if kind == "random" and len(grids) == len(swept):
            raise ValueError("search.kind: random has nothing to draw, every key has a grid; take grid")
        if kind == "tpe" and grids:
            raise ValueError(f"keys.{grids[0]}: search tpe chooses values itself: write choice in place of grid")
        if kind == "tpe" and self.scheduler.kind != "none" and len(self.seeds) > 1:
            raise ValueError("scheduler.kind: tpe learns from the mean over seeds, none of which may be stopped early")
        twice = sorted(set(self.set) & set(self.keys))
        if twice:
            raise ValueError(f"set.{twice[0]}: is swept, too")
        return self

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seeds of each setting; (None,): that of the recipe."""
        return self.keys[SEED].values if SEED in self.keys else (None,)

    @property
    def swept(self) -> dict[str, KeySettings]:
        """The keys without the seed."""
        return {name: key for name, key in self.keys.items() if name != SEED}

    def trials(self) -> list[Trial]:
        """Every trial of a grid or of random draws, each once; the first of tpe cannot be known."""
        found = [Trial(params, seed) for params in self._settings() for seed in self.seeds]
        return list({trial.id: trial for trial in found}.values())

    def _settings(self) -> Iterator[dict[str, Any]]:
        crossed = {name: key for name, key in self.swept.items() if self._is_crossed(key)}
        drawn = {name: key for name, key in self.swept.items() if not self._is_crossed(key)}
        generator = np.random.default_rng(self.search.seed)
        for _ in range(self.search.trials or 1):
            draw = {name: key.drawn(float(generator.random())) for name, key in drawn.items()}
            for combination in itertools.product(*(key.values for key in crossed.values())):
                chosen = draw | dict(zip(crossed, combination, strict=True))
                yield {name: chosen[name] for name in self.swept}

    def _is_crossed(self, key: KeySettings) -> bool:
        return key.form == "grid" or self.search.kind == "grid"


def load_space(path: str) -> SweepSpace:
    """The space at `path`; ConfigError or UserError in one line."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        beside = sorted(file.name for file in Path(path).parent.glob("*.yaml"))
        raise UserError(f"--space {path}: no such file; in that folder there are {beside}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--space {path}: cannot be read ({error})") from None
    return config.build(SweepSpace, config.read_yaml(text, path), path)


def check_values(space: SweepSpace, recipe_type: type[Settings], base: Mapping[str, Any], where: str) -> None:
    """Each key by itself must take each of its values, whatever the others are.

    Raises:
        ConfigError: no such key, or a value that it cannot have.
    """
    for name, key in space.keys.items():
        for value in key.examples():
            try:
                config.build(recipe_type, config.with_overrides(base, [(name, value)]), where)
            except ConfigError as error:
                # Its own fault; what only another key's value forbids is seen when whole trials are built.
                if any(sign in str(error) for sign in (f"{name}:", f"{name}.", "no such key")):
                    raise


def _rounded(value: float) -> float:
    return float(f"{value:.{DRAWN_DIGITS}g}")
