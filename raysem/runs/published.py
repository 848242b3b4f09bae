"""What the end of every job has in common: versions, curves, and the report's place."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from raysem import storage

PACKAGES = ("ray", "torch", "torchaudio", "transformers", "pyarrow", "faiss-cpu", "soundfile", "av", "numpy")


def publish(folder: storage.Location, output: storage.Location) -> None:
    """Put the report's two files where a person looks for them: `summary.json` and `report/index.html`."""
    for name, target in (("summary.json", "summary.json"), ("index.html", "report/index.html")):
        storage.write_bytes(storage.join(output, target), storage.read_bytes(storage.join(folder, name)))


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
