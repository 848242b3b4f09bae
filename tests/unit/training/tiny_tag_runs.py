"""Runs of a tagger in one process: watched from within, killed, compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tiny_training import StopAt
from torch import Tensor

from raysem.models.tagger import Tagger
from raysem.training import tag_spec
from raysem.training.context import LocalContext
from raysem.training.loader import ClipBatch
from raysem.training.objective import Measured
from raysem.training.run import TrainingResult
from raysem.training.tag_objective import TaggingObjective
from raysem.training.tag_spec import TaggingSpec


def trained(spec: TaggingSpec) -> TrainingResult:
    return spec.train(LocalContext())


def weights_of(output: Path) -> bytes:
    return (output / "model" / "model.safetensors").read_bytes()


def without_times(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "clips_per_second"} for line in lines]


def measured(result: TrainingResult, kind: str, name: str) -> dict[int, float]:
    return {record["step"]: record[name] for record in result.history if record["kind"] == kind}


def assert_same_run(one: Path, two: Path, results: tuple[TrainingResult, TrainingResult]) -> None:
    assert weights_of(one) == weights_of(two)
    assert without_times(one) == without_times(two)
    first, second = (replace(result, model="", train_seconds=0.0) for result in results)
    assert first == second


def killed(spec: TaggingSpec, call: int) -> None:
    """Train until the n-th call of `losses`."""
    with (
        mock.patch.object(tag_spec, "TaggingObjective", lambda *rest: StopAt(TaggingObjective(*rest), call)),
        pytest.raises(KeyboardInterrupt),
    ):
        trained(spec)


class Recording(StopAt):
    """An objective that keeps the batches that it was given, and the trained weights after each step."""

    def __init__(self, tagger: Tagger, *rest: Any):
        super().__init__(TaggingObjective(tagger, *rest), 0)
        self._tagger = tagger
        self.batches: list[ClipBatch] = []
        self.weights_after: list[dict[str, Tensor]] = []
        self.buffers_after: list[dict[str, Tensor]] = []

    def losses(self, batch: ClipBatch) -> Measured:
        self.batches.append(batch)
        return self.inner.losses(batch)

    def after_step(self) -> None:
        self.weights_after.append({name: p.detach().clone() for name, p in self._tagger.named_parameters()})
        self.buffers_after.append({name: b.clone() for name, b in self._tagger.named_buffers()})


@contextmanager
def recording() -> Iterator[list[Recording]]:
    """Within: the objectives of the runs that are begun."""
    found: list[Recording] = []

    def build(*arguments: Any) -> Recording:
        found.append(Recording(*arguments))
        return found[-1]

    with mock.patch.object(tag_spec, "TaggingObjective", build):
        yield found
