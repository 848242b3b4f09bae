"""The benchmarks run and their rows have one form. What they measure is no matter of a test."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/run.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_quick_benchmarks_give_rows_with_a_ratio_and_the_machine(tmp_path: Path):
    output = tmp_path / "results.json"
    for name in ("front_end", "matching", "omap"):  # one after the other: the second joins the results of the first
        ended = run("--quick", "--only", name, "--output", str(output))
        assert ended.returncode == 0, ended.stderr
    results = json.loads(output.read_text())
    assert results["quick"] is True
    assert results["machine"]["cores"] >= 1
    assert {"cpu", "python", "torch", "ray"} <= results["machine"].keys()
    assert list(results["benchmarks"]) == ["front_end", "matching", "omap"]
    for name, entry in results["benchmarks"].items():
        assert {"date", "load_average", "seconds", "rows"} == entry.keys()
        for row in entry["rows"]:
            assert row["benchmark"] == name
            assert isinstance(row["setting"], str)
            assert math.isfinite(row["ratio"])
            assert row["ratio"] > 0
    assert [row["name"] for row in results["benchmarks"]["front_end"]["rows"]] == [
        "wav",
        "flac",
        "ogg vorbis",
        "opus",
        "mp3",
    ]


def test_an_unknown_benchmark_is_refused_with_the_names_that_exist():
    ended = run("--only", "speed")
    assert ended.returncode == 2
    assert "invalid choice: 'speed'" in ended.stderr
    assert "driver_memory" in ended.stderr


def test_every_benchmark_says_how_it_is_called():
    code = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
"""
    names = ["front_end", "embedding", "matching", "training", "driver_memory", "omap", "encoders"]
    ended = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("usage:") == ended.stdout.count("also write the rows there") == len(names)
