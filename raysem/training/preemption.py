"""A group of training processes that loses a machine: it hears of it now and then, saves its step, and ends."""

from __future__ import annotations

import time

from raysem.errors import RaysemError
from raysem.training.context import TrainContext

ASK_SECONDS = 2.0
"""Between two questions, each of which waits for all ranks."""


class PreemptedError(RaysemError):
    """A machine of the group is about to be taken away: every rank ended after `step`, from which others go on."""

    def __init__(self, step: int):
        super().__init__(step)
        (self.step,) = self.args

    def __str__(self) -> str:
        return f"a machine is about to be taken away; saved after step {self.step}, to go on elsewhere"


class PreemptionWatch:
    """When to ask the context, which costs a message between machines."""

    def __init__(self, context: TrainContext):
        self._context = context
        self._next = time.monotonic() + ASK_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether this rank would ask now. Clocks differ: `announced` needs that the ranks agree before."""
        return time.monotonic() >= self._next

    def announced(self) -> bool:
        """Whether a machine of the group is about to be taken away; called on every rank or on none."""
        self._next = time.monotonic() + ASK_SECONDS
        return self._context.loses_machine()
