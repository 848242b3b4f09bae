"""Where the clips of a run's parts went, as its report counts and lists them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from raysem import storage
from raysem.ledger import DoneRecord, Ledger
from raysem.runs.clip_outcomes import outcome_lines, read_counts
from raysem.tables import REJECTS


def rejects(*rows: tuple[str, str]) -> pa.Table:
    """(clip_id, outcome), the reason being that it is so."""
    content = [{"clip_id": name, "stage": "x", "outcome": what, "reason": f"{name} is {what}"} for name, what in rows]
    return pa.Table.from_pylist(content, schema=REJECTS)


def part(folder: Path, *rows: tuple[str, str]) -> str:
    storage.write_table(str(folder / "rejects.parquet"), rejects(*rows))
    return str(folder)


def scored(folder: Path, *shards: list[tuple[str, str]]) -> str:
    for number, rows in enumerate(shards):
        record = DoneRecord(f"shard_{number:05d}", len(rows), {})
        Ledger(str(folder)).finish(record, {"shards": pa.table({"clip_id": []}), "rejects": rejects(*rows)})
    return str(folder)


def test_a_part_has_the_clips_that_were_read_and_those_refused_at_once(tmp_path: Path):
    folders = {
        "corpora/synthetic": str(tmp_path / "synthetic"),
        "corpora/fold1/clips": part(tmp_path / "1", ("a", "missing"), ("b", "empty"), ("c", "missing")),
        "corpora/fold1/held_out": part(tmp_path / "2"),
        "labels": str(tmp_path / "labels"),
    }
    records = {
        "corpora/synthetic": {"summary": {}},
        "corpora/fold1/clips": {"summary": {"clips": 10, "rejected": 3}},
        "corpora/fold1/held_out": {"summary": {"clips": 4, "rejected": 0}},
        "labels": {"summary": {"labels": 2}},
    }
    assert read_counts(folders, records) == {
        "fold1/clips": {"clips": 13, "outcomes": {"missing": 2, "empty": 1}},
        "fold1/held_out": {"clips": 4, "outcomes": {}},
    }


def test_the_outcomes_of_several_parts_are_listed_kept_clips_first_then_by_number(tmp_path: Path):
    folders = {
        "corpora/fold1/clips": part(tmp_path / "1", ("a", "missing")),
        "corpora/fold1/held_out": part(tmp_path / "2", ("b", "missing")),
        "evaluate/cscm/fold1": scored(tmp_path / "3", [("c", "silent"), ("d", "silent")], [("e", "silent")]),
    }
    count = {"outcomes": {"missing": 2, "silent": 3, "kept": 2}, "scored_by": ["evaluate/cscm/fold1"]}
    lines = outcome_lines(folders, ["fold1/clips", "fold1/held_out"], count)
    assert [(line.outcome, line.count) for line in lines] == [("kept", 2), ("silent", 3), ("missing", 2)]
    examples = [[clip_id for clip_id, _ in line.examples] for line in lines]
    assert examples == [[], ["c", "d", "e"], ["a", "b"]]
    assert lines[2].examples[1] == ("b", "b is missing")


def test_of_many_clips_with_one_outcome_three_are_shown(tmp_path: Path):
    folders = {"corpora/fold1/clips": part(tmp_path / "1", *((str(number), "silent") for number in range(9)))}
    (line,) = outcome_lines(folders, ["fold1/clips"], {"outcomes": {"silent": 9}})
    assert (line.count, [clip_id for clip_id, _ in line.examples]) == (9, ["0", "1", "2"])


def test_a_part_that_nothing_scored_shows_what_was_refused_at_once_and_no_more(tmp_path: Path):
    folders = {
        "corpora/fold1/clips": part(tmp_path / "1", ("a", "missing")),
        "evaluate/cscm/fold1": scored(tmp_path / "2", [("c", "silent")]),
    }
    lines = outcome_lines(folders, ["fold1/clips"], {"outcomes": {"missing": 1}})
    assert [(line.outcome, line.examples) for line in lines] == [("missing", [("a", "a is missing")])]
