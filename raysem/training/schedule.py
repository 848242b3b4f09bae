"""The learning rate of each step: warm-up, then constant, linear, cosine, exponential or on a plateau."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from raysem.config import Settings


class ScheduleSettings(Settings):
    """Warm-up and what follows it."""

    kind: Literal["constant", "linear", "cosine", "plateau", "exponential"] = "constant"
    """`plateau` is one of the held-out metric."""
    warmup_steps: NonNegativeInt = 0
    """The learning rate rises linearly to its full value over these steps."""
    final_factor: float = Field(0.0, ge=0, le=1)
    """Linear, cosine: the share of the learning rate that is left at the end. The last step of a linear decay has
    exactly this share (0 would make it a step for nothing); a cosine would reach it one step later."""
    plateau_factor: float = Field(0.1, gt=0, lt=1)
    plateau_patience: PositiveInt = 10
    """Plateau: evaluations without a better held-out metric before the learning rate is multiplied by the factor."""
    minimum_factor: float = Field(1e-4, ge=0, le=1)
    """Plateau: never below this share of the learning rate (CLAP: 1e-8 of 1e-4)."""
    gamma: float = Field(0.96, gt=0, le=1)
    steps_per_decay: PositiveInt = 100
    """Exponential: after each so many steps, as a rule those of an epoch, the learning rate is multiplied by gamma."""

    @model_serializer(mode="wrap")
    def _silent_without_decay(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what only `exponential` reads and nobody has set: runs of before may be gone on with."""
        content: dict[str, Any] = handler(self)
        if self.kind == "exponential":
            return content
        fields = type(self).model_fields
        unset = [name for name in ("gamma", "steps_per_decay") if getattr(self, name) == fields[name].default]
        return {name: value for name, value in content.items() if name not in unset}


class Schedule:
    """Factor on the learning rate. Only the plateau has a state; the rest is a function of the step."""

    def __init__(self, settings: ScheduleSettings, num_steps: int):
        self._settings, self._num_steps = settings, num_steps
        self._reduced, self._best, self._evaluations_since_best = 1.0, -math.inf, 0

    def factor(self, step: int) -> float:
        """The factor for step `step`, counted from 0; with warm-up it starts above 0 and step warmup_steps has 1."""
        warmup = self._settings.warmup_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        left = self._settings.final_factor
        if self._settings.kind == "linear":
            done = (step - warmup) / max(1, self._num_steps - 1 - warmup)
            return left + (1 - left) * (1 - min(1.0, done))
        if self._settings.kind == "cosine":
            done = (step - warmup) / max(1, self._num_steps - warmup)
            return left + (1 - left) * (1 + math.cos(math.pi * min(1.0, done))) / 2
        if self._settings.kind == "exponential":
            return self._settings.gamma ** ((step - warmup) // self._settings.steps_per_decay)
        return self._reduced

    def observe(self, metric: float) -> None:
        """Take in a held-out metric, where higher is better; called equally on every rank."""
        if metric > self._best:
            self._best, self._evaluations_since_best = metric, 0
            return
        self._evaluations_since_best += 1
        if self._settings.kind == "plateau" and self._evaluations_since_best > self._settings.plateau_patience:
            self._reduced = max(self._reduced * self._settings.plateau_factor, self._settings.minimum_factor)
            self._evaluations_since_best = 0

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"reduced": self._reduced, "best": self._best, "evaluations_since_best": self._evaluations_since_best}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._reduced, self._best = float(state["reduced"]), float(state["best"])
        self._evaluations_since_best = int(state["evaluations_since_best"])
