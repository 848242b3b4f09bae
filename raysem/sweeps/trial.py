"""A trial: one setting with one seed, as dotted overrides of a recipe; and its record, a JSON file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from raysem import config, storage

SEED, HELD_OUT = "seed", "held_out"
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """A value for each swept key, and the seed; None: that of the recipe."""

    params: Mapping[str, Any]
    seed: int | None = None

    @property
    def id(self) -> str:
        """The same for the same setting and seed."""
        return config.digest({"params": dict(self.params), "seed": self.seed}, 8)

    @property
    def overrides(self) -> list[tuple[str, Any]]:
        """As `--set` takes them."""
        return [*self.params.items(), *([(SEED, self.seed)] if self.seed is not None else [])]

    def __str__(self) -> str:
        return ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in self.overrides)


@dataclass(frozen=True)
class TrialRecord:
    """How a trial went. `running`: it was begun, and nobody has said how it ended."""

    id: str
    params: Mapping[str, Any]
    seed: int | None
    status: Status
    reason: str = ""
    metric: float | None = None
    """At the step that the trial's training keeps; of one that was stopped, the last that was measured."""
    curve: list[dict[str, float]] = field(default_factory=list)
    stages: Mapping[str, str] = field(default_factory=dict)
    """By name: `reused` or `ran`."""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    """Of its training; 0 where it has none, or several."""
    watched: storage.Location | None = None
    """Where the one training of a running trial writes what it measures."""

    @classmethod
    def begun(cls, trial: Trial) -> TrialRecord:
        """Of a trial that begins now."""
        return cls(trial.id, dict(trial.params), trial.seed, "running")

    @property
    def trial(self) -> Trial:
        """What was tried."""
        return Trial(self.params, self.seed)

    @property
    def is_final(self) -> bool:
        """It is not tried again: a failed trial is, when the sweep goes on."""
        return self.status in ("finished", "stopped")


class TrialRecords:
    """The records below a sweep's output, one file a trial, so that a killed sweep keeps them."""

    def __init__(self, output: storage.Location):
        self.folder = storage.join(output, "trials")

    def read(self, trial_id: str) -> TrialRecord | None:
        """The record of a trial; None: it was never begun, or the file is no record."""
        try:
            return TrialRecord(**storage.read_json(storage.join(self.folder, f"{trial_id}.json")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def all(self) -> dict[str, TrialRecord]:
        """Every record, by the trial's id."""
        names = [storage.name_of(file) for file in storage.list_files(self.folder, ".json")]
        return {name: record for name in names if (record := self.read(name)) is not None}

    def write(self, record: TrialRecord) -> None:
        """In place of the trial's record before."""
        storage.write_json(storage.join(self.folder, f"{record.id}.json"), asdict(record))

    def end(
        self, trial_id: str, status: Status, reason: str, curve: list[dict[str, float]], seconds: float = 0.0
    ) -> TrialRecord | None:
        """Say how a trial that is still `running` ended, after `curve`; a record that says so already stays."""
        record = self.read(trial_id)
        if record is None or record.status != "running":
            return record
        last = curve[-1]["metric"] if curve and status == "stopped" else None
        ended = replace(record, status=status, reason=reason, curve=curve, metric=last, seconds=seconds, watched=None)
        self.write(ended)
        return ended


def curve_of(history: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, float]]:
    """The held-out metric over a training's steps. Step 0, before the first, is left out: it chooses nothing."""
    return [
        {"step": record["step"], "metric": float(record[metric])}
        for record in history
        if record["kind"] == HELD_OUT and record["step"] > 0 and metric in record
    ]
