"""What became of the clips of a run's parts, as counts and as lines of its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.ledger import Ledger
from raysem.reports.content import OutcomeCount
from raysem.tables import KEPT

EXAMPLES = 3


def read_counts(folders: Mapping[str, storage.Location], records: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By part the clips that were read and the outcomes of those refused at once.

    Args:
        folders, records: of every stage by name, the folder and the `_done.json`.
    """
    counts: dict[str, dict[str, Any]] = {}
    for name, record in records.items():
        kind, _, part = name.partition("/")
        if kind == "corpora" and part != "synthetic":
            read = record["summary"]
            rejects = storage.read_table(storage.join(folders[name], "rejects.parquet"))
            outcomes = dict(Counter(rejects["outcome"].to_pylist()))
            counts[part] = {"clips": read["clips"] + read["rejected"], "outcomes": outcomes}
    return counts


def outcome_lines(
    folders: Mapping[str, storage.Location], parts: Sequence[str], count: Mapping[str, Any]
) -> list[OutcomeCount]:
    """The outcomes of one or several parts, kept clips first, with a few examples of each other.

    Args:
        count: `outcomes`, and `scored_by`, the stages that scored the clips, where there are some.
    """
    examples: dict[str, list[tuple[str, str]]] = {}
    files = [storage.join(folders[f"corpora/{part}"], "rejects.parquet") for part in parts]
    for stage in count.get("scored_by", ()):
        files += Ledger(folders[stage]).files("rejects")
    for file in files:
        for row in storage.read_table(file).to_pylist():
            shown = examples.setdefault(row["outcome"], [])
            if len(shown) < EXAMPLES:
                shown.append((row["clip_id"], row["reason"]))
    listed = sorted(count["outcomes"].items(), key=lambda item: (item[0] != KEPT, -item[1]))
    return [OutcomeCount(name, number, examples.get(name, [])) for name, number in listed]
