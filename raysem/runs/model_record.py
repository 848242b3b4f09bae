"""What a stage that leaves a model says of it: `model.json`, and its summary for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysem import storage
from raysem.training.settings import TrainingSettings

MODEL_JSON = "model.json"


def write(folder: storage.Location, found: Mapping[str, Any]) -> dict[str, Any]:
    """Write the content of `model.json` of a stage, and return it."""
    storage.write_json(storage.join(folder, MODEL_JSON), dict(found))
    return dict(found)


def about(folder: storage.Location) -> dict[str, Any]:
    """The content of a model stage's `model.json`."""
    return storage.read_json(storage.join(folder, MODEL_JSON))


def without_history(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A model stage's summary without what was measured at each evaluation, which the curves show."""
    training = {name: value for name, value in summary["training"].items() if name != "history"}
    return dict(summary) | {"training": training}


def kept_step(training: TrainingSettings, *, has_held_out: bool) -> TrainingSettings:
    """The settings; without held-out clips to choose by, the last step is kept."""
    if has_held_out or training.keep == "last":
        return training
    return training.model_copy(update={"keep": "last"})
