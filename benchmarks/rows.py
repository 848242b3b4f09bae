"""What all benchmarks share: their options, the form of a row, and how the rows are shown and written.

A row says what was measured (`benchmark`, `setting`, `name`), the numbers with their units in the names, and one
`ratio`. Both sides of a ratio come from one run, in turns: absolute times of two machines, or of one machine on two
days, say little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
NAMING = ("benchmark", "setting", "name")


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark; `about` is the docstring of its module."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds: only whether it works, no measurement")
    parser.add_argument("--threads", type=int, help="threads of torch where the benchmark leaves a choice")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    return parser


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of what each way returns, all ways once in each round: a busy spell of the machine meets them all."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return {name: statistics.median(values) for name, values in found.items()}


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def finish(rows: Sequence[Row], options: argparse.Namespace) -> list[Row]:
    """Print the rows, write them where the options say so, and return them."""
    print(table(rows), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(list(rows), indent=1) + "\n")
    return list(rows)


def table(rows: Sequence[Row]) -> str:
    """One line a row, after a line for each new setting."""
    lines: list[str] = []
    before: tuple[str, str] | None = None
    for row in rows:
        about = (row["benchmark"], row["setting"])
        if about != before:
            lines.append(f"{about[0]}: {about[1]}")
        before = about
        numbers = [f"{key} {_spelled(value)}" for key, value in row.items() if key not in (*NAMING, "ratio")]
        lines.append(f"  {row['name']:<40} {row['ratio']:7.3f}   {', '.join(numbers)}")
    return "\n".join(lines)


def _spelled(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
