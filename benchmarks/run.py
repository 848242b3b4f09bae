"""Runs the benchmarks, each in a process of its own, and collects their rows in benchmarks/results.json.

    python benchmarks/run.py [--only NAME] [--quick] [--output FILE]

A quick run shows that everything works and measures nothing; it writes a file only where `--output` says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
MAX_SECONDS = 900

QUICK: dict[str, tuple[str, ...]] = {
    "front_end": ("--quick",),
    "embedding": ("--quick",),
    "matching": ("--clips", "256", "--captions", "512", "--width", "64", "--repeats", "1", "--threads", "1"),
    "training": ("--quick",),
    "driver_memory": ("--quick",),
    "omap": ("--quick",),
    "encoders": ("--quick", "--only", "mn10", "--only", "passt_s"),
}
"""The benchmarks in their order, with the arguments that make each one quick."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the options name; status 1 when a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=tuple(QUICK), metavar="NAME", help=", ".join(QUICK))
    parser.add_argument("--quick", action="store_true", help="a few seconds each: only whether they work")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results.json, if not quick")
    options = parser.parse_args(argv)
    output: Path | None = options.output or (None if options.quick else RESULTS)
    found: dict[str, dict[str, Any]] = {}
    names = [name for name in QUICK if not options.only or name in options.only]
    for name in names:
        entry = run(name, QUICK[name] if options.quick else ())
        if entry is not None:
            found[name] = entry
            print(table(entry["rows"]), flush=True)
    if output is not None and found:
        write(output, found, quick=options.quick)
        print(f"written to {output}")
    return int(len(found) < len(names))


def run(name: str, arguments: Sequence[str]) -> dict[str, Any] | None:
    """The rows of one benchmark with the circumstances; None when it failed, said on standard error."""
    about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load_average": round(os.getloadavg()[0], 2)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raysem-benchmark-") as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", str(rows)]
        try:
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MAX_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped after {MAX_SECONDS} s", file=sys.stderr)
            return None
        if ended.returncode or not rows.exists():
            print(f"{name}: failed with status {ended.returncode}\n{ended.stderr[-4000:]}", file=sys.stderr)
            return None
        return about | {"seconds": round(time.monotonic() - began, 1), "rows": json.loads(rows.read_text())}


def write(output: Path, found: dict[str, dict[str, Any]], *, quick: bool) -> None:
    """Write the results; those of other benchmarks stay where they come from the same machine and versions."""
    content = {"machine": machine(), "quick": quick}
    kept: dict[str, Any] = {}
    if output.exists():
        before = json.loads(output.read_text())
        if all(before.get(key) == value for key, value in content.items()):
            kept = before["benchmarks"]
    merged = kept | found
    content["benchmarks"] = {name: merged[name] for name in QUICK if name in merged}
    output.write_text(json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    packages = ("torch", "torchaudio", "ray", "numpy", "pyarrow", "faiss-cpu", "soundfile", "av")
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: installed(name) for name in packages},
    }


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def installed(package: str) -> str | None:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started as a file, Python looks beside it only
    from benchmarks.rows import table

    sys.exit(main())
