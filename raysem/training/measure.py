"""What is measured on held-out clips while a model trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from raysem.training.context import TrainContext
from raysem.training.rejects import UnusableClip


class Measure(Protocol):
    """Metrics of a model on a fixed set of clips.

    `name` is the kind of the records in the metrics file; `chooses` says whether the best step and a plateau are seen
    by it (one measure of a run at most: never one on a test set).
    """

    @property
    def name(self) -> str: ...

    @property
    def chooses(self) -> bool: ...

    @property
    def unusable(self) -> Mapping[str, UnusableClip]:
        """The clips of this rank that had to be left out, by id."""
        ...

    def measure(self, model: nn.Module, context: TrainContext) -> dict[str, float]:
        """The metrics in eval mode and fp32, the same on every rank; a collective."""
        ...
