"""Where a run stands, read from its files alone: no Ray, no dashboard, from any machine that sees the output.

How much is asked of a store hardly grows with the run: a finished stage answers for itself in `_done.json`; of a stage
at work one listing says which shards are done and since when, and at most `MAX_RECORDS` done-records are read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raysem import storage
from raysem.errors import UserError
from raysem.ledger import DoneRecord, read_record, total
from raysem.locks import LOCK, read_lock
from raysem.logs import duration
from raysem.remote import NOTHING_THERE
from raysem.stages import DONE, PLAN
from raysem.tables import REJECT_OUTCOMES

MAX_RECORDS = 256
"""Done-records read of a stage at work. Of more shards, these are evenly spaced, and their counts are scaled up."""
TAIL_BYTES = 65_536  # of metrics.jsonl: the last some hundred steps that were logged


def read_status(output: storage.Location, *, limit: int = MAX_RECORDS) -> dict[str, Any]:
    """The stages of the run at `output`, each with what its files say; `limit` done-records are read of a stage.

    Raises:
        UserError: there is no run; StorageError where the store cannot be asked.
    """
    try:
        plan = storage.read_json(storage.join(output, PLAN))
        planned = [(stage["name"], stage["digest"], stage.get("settings")) for stage in plan["stages"]]
    except NOTHING_THERE:
        storage.check_bucket(output)
        raise UserError(f"{output}: no {PLAN} there; not the output of a run") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{storage.join(output, PLAN)}: not readable; run the job again to have it written") from None
    driver = read_lock(output)
    with ThreadPoolExecutor(16) as pool:
        notes = pool.map(lambda stage: _notes(storage.join(output, *stage[:2])), planned)
        stages = [
            {
                "name": name,
                "digest": digest,
                **_stage(storage.join(output, name, digest), note, settings, driver, limit),
            }
            for (name, digest, settings), note in zip(planned, notes, strict=True)
        ]
    return {
        "output": output,
        "driver": driver,
        "last_driver": None if driver else _left_behind(output),
        "stages_finished": sum(stage["state"] == "finished" for stage in stages),
        "stages": stages,
    }


def describe(status: Mapping[str, Any]) -> str:
    """The status as lines for a person."""
    driver, last = status["driver"], status["last_driver"]
    at_work = f"process {driver['pid']} on {driver['host']}" if driver else "none"
    if last:
        at_work += (
            f"; process {last['pid']} on {last['host']} ended without a word {duration(last['silent_seconds'])} ago"
        )
    lines = [f"{status['output']}, driver at work: {at_work}"]
    for stage in status["stages"]:
        parts = [f"{stage['state']:9} {stage['name']}"]
        if stage["state"] == "finished":
            parts.append(duration(stage["seconds"]))
        parts += _shard_words(stage) + _training_words(stage)
        if stage["state"] in ("running", "stopped") and stage["attempts"] > 1:
            parts.append(f"attempt {stage['attempts']}")
        lines.append("  ".join(parts))
    return "\n".join(lines)


# -- one stage --------------------------------------------------------------------------------------------------------


def _notes(folder: storage.Location) -> tuple[Any, bool]:
    """The stage's `_done.json`, and whether an attempt at it began. No listing: of most stages this is all."""
    done = _json(storage.join(folder, DONE))
    if isinstance(done, dict) and {"seconds", "attempts"} <= done.keys():
        return done, True
    try:
        return None, bool(storage.read_bytes(storage.join(folder, "attempts", "0001.json")))
    except NOTHING_THERE:
        return None, False


def _stage(
    folder: storage.Location, notes: tuple[Any, bool], settings: Any, driver: Mapping[str, Any] | None, limit: int
) -> dict[str, Any]:
    done, started = notes
    if done is not None:
        return _finished(done)
    if not started:
        return {"state": "waiting", "attempts": 0}
    at_work = driver is not None or read_lock(folder) is not None  # a sweep's trials lock the stages that they share
    attempts = storage.list_files(storage.join(folder, "attempts"), ".json")
    found: dict[str, Any] = {"state": "running" if at_work else "stopped", "attempts": len(attempts)}
    latest = _json(attempts[-1]) if attempts else None
    began = latest.get("began") if isinstance(latest, dict) else None
    training = settings.get("training") if isinstance(settings, dict) else None
    if isinstance(training, dict) and isinstance(training.get("steps"), int):
        return found | {"training": _training(folder, training, at_work)}
    place, planned = _planned(folder)
    records = _Records(place, limit)
    if planned is not None or records.times:
        found["shards"] = records.progress(planned, began if isinstance(began, (int, float)) else None, at_work)
    return found


def _finished(done: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished stage says of itself."""
    found: dict[str, Any] = {"state": "finished", "seconds": done["seconds"], "attempts": done["attempts"]}
    summary = done.get("summary")
    summary = summary if isinstance(summary, dict) else {}
    if isinstance(summary.get("training"), dict):
        steps = summary["training"].get("steps")
        found["training"] = {"step": steps, "steps": steps, "checkpoint": None, "clips_per_second": None}
        found["training"]["seconds_left"] = None
    if {"shards", "rows", "outcomes"} <= summary.keys():
        in_one_go = done["seconds"] and done["attempts"] == 1
        found["shards"] = {
            "done": summary["shards"],
            "total": summary["shards"],
            **dict.fromkeys(("running", "waiting", "failed"), 0),
            "rows": summary["rows"],
            "outcomes": summary["outcomes"],
            "rejected": _rejected(summary["outcomes"]),
            "records_read": None,
            "rows_per_second": summary["rows"] / done["seconds"] if in_one_go else None,
            "seconds_left": None,
        }
    return found


def _planned(folder: storage.Location) -> tuple[storage.Location, int | None]:
    """Where the shards are made, and how many there will be; `match` scores them in a folder below."""
    for place in (folder, storage.join(folder, "scored")):
        plan = _json(storage.join(place, "plan.json"))
        if isinstance(plan, dict):
            count = plan.get("shards")
            return place, count if isinstance(count, int) else None
    return folder, None


class _Records:
    """The done-records of a stage at work."""

    def __init__(self, folder: storage.Location, limit: int):
        self.times = storage.write_times(storage.join(folder, "done"), ".json")
        """When each record was written, in seconds since 1970; None where the store does not say."""
        stride = max(-(-len(self.times) // limit), 1)
        with ThreadPoolExecutor(16) as pool:
            read = list(pool.map(_record, sorted(self.times)[::stride]))
        self._read = [record for record in read if record is not None]
        self._failed = len(read) - len(self._read)

    def progress(self, planned: int | None, began: float | None, at_work: bool) -> dict[str, Any]:
        """What the records say of a stage whose last attempt began at `began`."""
        summed = total(self._read)
        num_done = len(self.times) - self._failed
        scale = num_done / len(self._read) if self._read else 1.0
        rows = round(summed["rows"] * scale)
        outcomes = {name: round(count * scale) for name, count in summed["outcomes"].items()}
        left = max(planned - num_done, 0) if planned is not None else None
        per_second = self._shards_per_second(began, at_work)
        per_shard = summed["rows"] / len(self._read) if self._read else 0.0
        return {
            "done": num_done,
            "total": planned,
            "running": left if at_work else 0,
            "waiting": 0 if at_work else left,
            "failed": self._failed,
            "rows": rows,
            "outcomes": outcomes,
            "rejected": _rejected(outcomes),
            "records_read": len(self._read),
            "rows_per_second": per_second * per_shard if per_second is not None else None,
            "seconds_left": left / per_second if at_work and left is not None and per_second else None,
        }

    def _shards_per_second(self, began: float | None, at_work: bool) -> float | None:
        """Since the last attempt began, of the shards that it finished; None where there is no such shard yet."""
        if began is None:
            return None
        # a store may round the second down
        own = [written for written in self.times.values() if written is not None and written >= began - 1]
        until = time.time() if at_work else max(own, default=began)
        return len(own) / (until - began) if own and until > began else None


def _training(folder: storage.Location, settings: Mapping[str, Any], at_work: bool) -> dict[str, Any]:
    """How far training is: the last step that was logged, and the last one that a new attempt would go on from."""
    checkpoints = storage.list_folders(storage.join(folder, "checkpoints"))
    names = [storage.name_of(location) for location in checkpoints]
    saved = [int(name.removeprefix("step_")) for name in names if name.removeprefix("step_").isdigit()]
    logged = _logged(storage.join(folder, "metrics.jsonl"))
    rates = [record["clips_per_second"] for record in logged[-10:] if record.get("clips_per_second")]
    steps = int(settings["steps"])
    step = max([*saved, *(record["step"] for record in logged)], default=0)
    found = {"step": step, "steps": steps, "checkpoint": max(saved, default=None), "seconds_left": None}
    found["clips_per_second"] = len(rates) / sum(1 / rate for rate in rates) if rates else None
    if rates and at_work and "batch_size" in settings:
        found["seconds_left"] = (steps - step) * settings["batch_size"] / found["clips_per_second"]
    return found


# -- files ------------------------------------------------------------------------------------------------------------


def _json(location: storage.Location) -> Any:
    """What a JSON file holds; None when it is not there, or cut short."""
    try:
        return storage.read_json(location)
    except (*NOTHING_THERE, ValueError):
        return None


def _record(location: storage.Location) -> DoneRecord | None:
    """A done-record; None for one that the job would not believe either."""
    try:
        return read_record(location)
    except (*NOTHING_THERE, ValueError):
        return None


def _logged(location: storage.Location) -> list[dict[str, Any]]:
    """The last records of a metrics file; lines cut short are left out."""
    try:
        with storage.open_read(location) as handle:
            start = max(handle.seek(0, 2) - TAIL_BYTES, 0)
            handle.seek(start)
            lines = handle.read().decode(errors="replace").splitlines()
    except NOTHING_THERE:
        return []
    records = []
    for line in lines[bool(start) :]:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _left_behind(output: storage.Location) -> dict[str, Any] | None:
    """The driver that was killed while it held the output, if the last one was."""
    held = _json(storage.join(output, LOCK))
    if not isinstance(held, dict) or not isinstance(held.get("beat"), (int, float)):
        return None
    silent = max(time.time() - held["beat"], 0.0)
    return {"host": held.get("host"), "pid": held.get("pid"), "silent_seconds": silent}


# -- words ------------------------------------------------------------------------------------------------------------


def _rejected(outcomes: Mapping[str, int]) -> int:
    """Clips that cannot be used."""
    return sum(count for name, count in outcomes.items() if name in REJECT_OUTCOMES)


def _shard_words(stage: Mapping[str, Any]) -> list[str]:
    shards = stage.get("shards")
    if not shards:
        return []
    about = "about " if shards["records_read"] is not None and shards["records_read"] < shards["done"] else ""
    words = [f"{shards['done']} of {shards['total'] if shards['total'] is not None else '?'} shards"]
    words += [f"{shards[name]} {name}" for name in ("running", "waiting", "failed") if shards[name]]
    rows = f"{about}{shards['rows']} rows"
    if shards["outcomes"]:
        rows += " (" + ", ".join(f"{name} {count}" for name, count in shards["outcomes"].items()) + ")"
    words.append(rows)
    if stage["state"] != "finished" and shards["rows_per_second"]:
        words.append(f"{shards['rows_per_second']:.1f}/s")
    return [", ".join([*words, *_time_left(shards)])]


def _training_words(stage: Mapping[str, Any]) -> list[str]:
    training = stage.get("training")
    if not training or stage["state"] == "finished":
        return []
    words = [f"step {training['step']} of {training['steps']}"]
    if training["checkpoint"] is not None:
        words[0] += f" (checkpoint {training['checkpoint']})"
    if training["clips_per_second"]:
        words.append(f"{training['clips_per_second']:.1f} clips/s")
    return [", ".join([*words, *_time_left(training)])]


def _time_left(progress: Mapping[str, Any]) -> Sequence[str]:
    return [f"{duration(progress['seconds_left'])} left"] if progress["seconds_left"] is not None else []
