"""Which file may import which: the order of CONTRIBUTING.md, and the few files that know Ray."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import raysem

ROOT = Path(raysem.__file__).parent
# A part imports only from parts before it.
ORDER = [
    *("credentials", "errors", "config", "tables", "remote", "storage", "ledger", "logs", "audio", "text", "ontology"),
    *(
        "corpora",
        "losses",
        "metrics",
        "models",
        "curation",
        "training",
        "evaluation",
        "reports",
        "listening",
        "locks",
        "stages",
        "run_status",
    ),
    *("runs", "sweeps", "cli_files", "cli_classify", "cli_listen", "cli_plan", "cli_tag", "cli"),
]
RAY_FILES = (
    *("curation/ray_decode.py", "curation/ray_metrics.py", "curation/ray_stages.py", "curation/ray_shards.py"),
    *("training/ray_worker.py", "training/ray_batches.py", "sweeps/ray_look.py", "sweeps/ray_trials.py"),
)
RAY_PLACES = ("evaluation/ray_", "runs/", "sweeps/command.py", "cli.py")

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def part_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def imported(file: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file, also of those within functions."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_the_order_names_every_part():
    assert {part_of(file) for file in FILES} <= set(ORDER)


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_from_its_own_part_and_those_before(file: str):
    own = ORDER.index(part_of(file))
    for line, name in imported(file):
        if name.startswith("raysem."):
            part = name.split(".")[1]
            if part == "__version__":
                continue
            assert part in ORDER[: own + 1], f"{file}:{line}: imports {name}, which comes after {part_of(file)}"


@pytest.mark.parametrize("file", [file for file in FILES if file not in RAY_FILES and not file.startswith(RAY_PLACES)])
def test_only_the_edge_knows_ray(file: str):
    for line, name in imported(file):
        assert name.split(".")[0] != "ray", f"{file}:{line}: imports {name}"
        reached = name.removeprefix("raysem.").replace(".", "/")
        edge = [ray_file for ray_file in RAY_FILES if reached.startswith(ray_file.removesuffix(".py"))]
        assert not edge, f"{file}:{line}: imports {name}, which imports Ray"
