"""Where a run stands, read from its files alone: no Ray, no dashboard, from any machine that sees the output."""

from __future__ import annotations

import time
from typing import Any

from raysem import storage
from raysem.errors import UserError
from raysem.ledger import Ledger, total
from raysem.logs import duration
from raysem.stages import DONE, PLAN, read_lock


def read_status(output: storage.Location) -> dict[str, Any]:
    """The stages of the run at `output`, each with what its files say.

    Raises:
        UserError: there is no run.
    """
    try:
        plan = storage.read_json(storage.join(output, PLAN))
        planned = [(stage["name"], stage["digest"]) for stage in plan["stages"]]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{output}: no {PLAN} there; not the output of a run") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{storage.join(output, PLAN)}: not readable; run the job again to have it written") from None
    stages = []
    for name, digest in planned:
        stages.append({"name": name, "digest": digest, **_stage(storage.join(output, name, digest))})
    return {"output": output, "driver": read_lock(output), "stages": stages}


def describe(status: dict[str, Any]) -> str:
    """The status as lines for a person."""
    driver = status["driver"]
    at_work = f"process {driver['pid']} on {driver['host']}" if driver else "none"
    lines = [f"{status['output']}, driver at work: {at_work}"]
    for stage in status["stages"]:
        line = f"{stage['state']:9} {stage['name']}"
        if stage["state"] == "finished":
            line += f"  {duration(stage['seconds'])}"
        shards = stage.get("shards")
        if shards:
            line += f"  {shards['done']} of {shards['total'] or '?'} shards, {shards['rows']} rows"
            if shards["outcomes"]:
                line += " (" + ", ".join(f"{name} {count}" for name, count in shards["outcomes"].items()) + ")"
            if stage["state"] == "started" and shards["rows_per_second"]:
                line += f", {shards['rows_per_second']:.1f}/s"
        if stage.get("training"):
            line += f"  step {stage['training']['step']}"
        if stage["state"] == "started" and stage["attempts"] > 1:
            line += f"  attempt {stage['attempts']}"
        lines.append(line)
    return "\n".join(lines)


def _stage(folder: storage.Location) -> dict[str, Any]:
    attempts = storage.list_files(storage.join(folder, "attempts"), ".json")
    found: dict[str, Any] = {"state": "waiting", "attempts": len(attempts)}
    try:
        done = storage.read_json(storage.join(folder, DONE))
        found |= {"state": "finished", "seconds": done["seconds"], "attempts": done["attempts"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        if attempts:
            found["state"] = "started"
    if found["state"] == "waiting":
        return found
    scored = storage.join(folder, "scored")  # `match` scores there before it ranks
    if storage.exists(storage.join(scored, "plan.json")):
        folder = scored
    records = Ledger(folder).records()
    if records or storage.exists(storage.join(folder, "plan.json")):
        summed = total(records.values())
        elapsed = found.get("seconds") or _seconds_since_start(attempts)
        found["shards"] = {
            "done": summed["shards"],
            "total": _planned_shards(folder) or (summed["shards"] if found["state"] == "finished" else None),
            "rows": summed["rows"],
            "outcomes": summed["outcomes"],
            "rows_per_second": summed["rows"] / elapsed if elapsed > 0 and len(attempts) == 1 else None,
        }
    checkpoints = storage.list_folders(storage.join(folder, "checkpoints"))
    steps = [int(name.rsplit("_", 1)[-1]) for name in checkpoints if name.rsplit("_", 1)[-1].isdigit()]
    if steps:
        found["training"] = {"step": max(steps)}
    return found


def _seconds_since_start(attempts: list[storage.Location]) -> float:
    try:
        return time.time() - float(storage.read_json(attempts[-1])["began"])
    except (FileNotFoundError, IndexError, ValueError, KeyError, TypeError):
        return 0.0


def _planned_shards(folder: storage.Location) -> int | None:
    try:
        return int(storage.read_json(storage.join(folder, "plan.json"))["shards"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
