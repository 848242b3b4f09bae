"""What the end of every job has in common: the report's stage, the facts of a run, curves, the report's place."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import raysem
from raysem import config, storage
from raysem.config import Settings, plain
from raysem.stages import Stage, StageResult

REPORT = "report"
PACKAGES = ("ray", "torch", "torchaudio", "transformers", "pyarrow", "faiss-cpu", "soundfile", "av", "numpy")


def report_stage(
    recipe: Settings,
    output: storage.Location,
    before: Sequence[Stage],
    write: Callable[[Any, storage.Location, Sequence[Stage], storage.Location], dict[str, Any]],
) -> Stage:
    """The last stage: `write(recipe, output, before, folder)` leaves `summary.json` and `index.html` in its folder.

    Where a run was computed is not what it found: with other settings of the cluster the report is not written again.
    """
    content = plain(recipe)
    shown = {name: section for name, section in content.items() if name != "cluster"}
    settings = {"report": content["report"], "recipe": config.digest(shown)}
    return Stage(
        REPORT, lambda folder: write(recipe, output, before, folder), settings, inputs=before, needs_cluster=False
    )


def finish(results: Mapping[str, StageResult], output: storage.Location) -> None:
    """Put the report's two files where a person looks for them, when this run came that far.

    They are `summary.json` and `report/index.html`.
    """
    if REPORT not in results:
        return
    folder = results[REPORT].folder
    for name, target in (("summary.json", "summary.json"), ("index.html", "report/index.html")):
        storage.write_bytes(storage.join(output, target), storage.read_bytes(storage.join(folder, name)))


def facts_of(recipe: Settings, seed: int, records: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `summary.json` by which its numbers can be traced; `records` are the stages' `_done.json`."""
    return {
        "raysem": raysem.__version__,
        "versions": versions(),
        "recipe_digest": config.digest(recipe),
        "recipe": plain(recipe),
        "seed": seed,
        "stages": {
            name: {key: record[key] for key in ("digest", "seconds", "attempts", "finished")}
            for name, record in records.items()
        },
    }


def versions() -> dict[str, str]:
    """Of what decides numbers; a package may be installed under another name (faiss-gpu, say)."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def curves(folders: Mapping[str, storage.Location]) -> dict[str, list[dict[str, Any]]]:
    """The records of each model's `metrics.jsonl`, where a stage left one."""
    found = {}
    for name, folder in folders.items():
        location = storage.join(folder, "metrics.jsonl")
        if storage.exists(location):
            lines = storage.read_bytes(location).decode().splitlines()
            found[name] = [json.loads(line) for line in lines if line.strip()]
    return found
