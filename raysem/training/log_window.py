"""What the steps since the last log line measured, and how fast they were."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class LogWindow:
    """Sums of named values over steps. A resumed attempt takes the sums along; the clock counts its own steps only."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._num_steps = 0
        self.start_clock()

    def start_clock(self) -> None:
        """Count time from now on."""
        self._clock_from, self._timed_steps = time.monotonic(), 0

    def add(self, values: Mapping[str, float]) -> None:
        """Take in what one step measured."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._num_steps += 1
        self._timed_steps += 1

    @contextmanager
    def stopped_clock(self) -> Iterator[None]:
        """Within: time that does not count against the steps."""
        began = time.monotonic()
        yield
        self._clock_from += time.monotonic() - began

    def take(self) -> tuple[dict[str, float], float]:
        """The mean of each value, and steps per second; a new window begins."""
        means = {name: total / self._num_steps for name, total in self._sums.items()}
        rate = self._timed_steps / max(time.monotonic() - self._clock_from, 1e-9)
        self._sums, self._num_steps = {}, 0
        self.start_clock()
        return means, rate

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"sums": self._sums, "num_steps": self._num_steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._sums, self._num_steps = dict(state["sums"]), state["num_steps"]
