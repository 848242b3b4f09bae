"""Metrics of a run as JSON lines and TensorBoard events; a resumed run goes on where its checkpoint stands."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from raysem import storage
from raysem.remote import is_remote
from raysem.storage import Location

log = logging.getLogger(__name__)

FILE, EVENTS = "metrics.jsonl", "tensorboard"


class MetricsLog:
    """`<output>/metrics.jsonl` and `<output>/tensorboard`, written by rank 0 alone.

    Lines of steps after `from_step` (-1 for a run from the start), which an attempt wrote after its last checkpoint,
    are dropped: no step comes twice. A disk gets each line at once; an object store, which cannot append, the whole
    file at every `flush`.
    """

    def __init__(self, output: Location, *, from_step: int, tensorboard: bool):
        self._location = storage.join(output, FILE)
        self._events = storage.join(output, EVENTS)
        self.records = [record for record in _read(self._location) if record["step"] <= from_step]
        if self.records or storage.exists(self._location):
            storage.write_text(self._location, self._text())
        self._handle: IO[str] | None = None
        if not is_remote(output):
            Path(self._location).parent.mkdir(parents=True, exist_ok=True)
            self._handle = Path(self._location).open("a", buffering=1)  # noqa: SIM115
        self._staging = tempfile.TemporaryDirectory() if tensorboard and is_remote(output) else None
        self._writer: Any = None
        if tensorboard:
            # Here: the import costs a second, and the tests do without.
            from torch.utils.tensorboard import SummaryWriter

            folder = self._staging.name if self._staging else self._events
            self._writer = SummaryWriter(folder, purge_step=from_step + 1)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        if self._handle is not None:
            self._handle.close()
        if self._writer is not None:
            self._writer.close()
        if self._staging is not None:
            self._staging.cleanup()

    def write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """One record of `kind` (train or held_out) after `step` steps."""
        record = {"step": step, "kind": kind, **metrics}
        self.records.append(record)
        if self._handle is not None:
            self._handle.write(json.dumps(record) + "\n")
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Everything so far is at its place; called before each checkpoint."""
        if self._handle is None:
            storage.write_text(self._location, self._text())
        if self._writer is not None:
            self._writer.flush()
        if self._staging is not None:
            for file in Path(self._staging.name).iterdir():
                storage.write_bytes(storage.join(self._events, file.name), file.read_bytes())

    def _text(self) -> str:
        return "".join(json.dumps(record) + "\n" for record in self.records)


def _read(location: Location) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line that was cut short is left out."""
    if not storage.exists(location):
        return []
    records = []
    for line in storage.read_bytes(location).decode().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s: a line was cut short and is left out", location)
    return records
