"""The main job, killed in the middle of each kind of stage and started again with the same command."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raysem import storage

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1500)]

PARTS = {  # stage: what is half written when all that runs is killed
    "corpora/wild": "clips/.shard_00010.parquet.*",
    "captions": "captions/.shard_00000.parquet.*",
    "teacher": "checkpoints/step_00000060/.complete.json.*",
    "embed/captions": "done/.shard_00000.json.*",
    "domain": ".domain.parquet.*",
    "embed/wild": "shards/.shard_00010.parquet.*",
    "match": "scored/shards/.shard_00010.parquet.*",
    "neighbours": "clips/.clips_shard_00010.parquet.*",
    "select/DU_0.3": "shards/.shard_00010.parquet.*",
    "student/student": ".result.json.*",
    "evaluate/synthetic/student": "done/.shard_00004.json.*",
    "report": ".index.html.*",
}


def only_folder(parent: Path) -> Path:
    """The folder of a stage: the one named by its digest."""
    (folder,) = [path for path in parent.iterdir() if path.is_dir()]
    return folder


def tables_in(stage: str, output: Path) -> dict[str, pa.Table]:
    """Every table of a stage by its place, what it says of places within `output` from there."""
    folder = only_folder(output / stage)
    tables = {}
    for file in folder.rglob("*.parquet"):
        table = storage.read_table(str(file)).flatten()  # where a clip lies is within its column `audio`
        for index, column in enumerate(table.schema):
            if pa.types.is_string(column.type):
                told = pc.replace_substring(table.column(index), str(output), "")
                table = table.set_column(index, column, told)
        tables[str(file.relative_to(folder))] = table
    return tables


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The records of a training, without the times; each step once."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kinds = [(record["kind"], record["step"]) for record in records]
    assert len(kinds) == len(set(kinds))
    timed = ("clips_per_second", "seconds")
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def fingerprint_of(output: Path, model: str) -> str:
    return str(storage.read_json(str(only_folder(output / model) / "model.json"))["fingerprint"])


def kill_in(stage: str, part: str, job: Any, output: Path) -> dict[Path, tuple[int, bytes]]:
    """Kill the job in the middle of `part` of a stage; returns the stage's done-records as they are."""
    folder = only_folder(job.start_and_kill(output, f"{stage}/*/{part}")[0].parents[part.count("/")].parent)
    assert folder.parent == output / stage
    assert not (folder / "_done.json").exists()
    assert len(list((folder / "attempts").iterdir())) == 1
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("done/*shard_*.json")}


def compare(output: Path, expected: Path, killed: Collection[str]) -> None:
    """All that two runs made is the same, but that the stages of one were killed and begun again."""
    for model in ("teacher", "student/student"):
        assert steps_of(only_folder(output / model)) == steps_of(only_folder(expected / model))
        assert fingerprint_of(output, model) == fingerprint_of(expected, model)
    summaries = [storage.read_json(str(folder / "summary.json")) for folder in (output, expected)]
    for stage in summaries[1]["stages"]:
        assert only_folder(output / stage).name == only_folder(expected / stage).name
        assert tables_in(stage, output) == tables_in(stage, expected), stage
    for key in ("counts", "evaluation", "differences", "curation"):
        assert summaries[0][key] == summaries[1][key], key
    attempts = {name: stage["attempts"] for name, stage in summaries[0]["stages"].items()}
    assert attempts == {name: 2 if name in killed else 1 for name in attempts}
    assert (output / "report" / "index.html").stat().st_size > 10_000


def test_a_run_killed_in_each_kind_of_stage_ends_as_an_uninterrupted_one(job: Any, finished: Any, tmp_path: Path):
    expected, output = finished[0], tmp_path / "killed"
    kinds = {stage["name"].split("/")[0] for stage in storage.read_json(str(expected / "run.json"))["stages"]}
    assert kinds == {stage.split("/")[0] for stage in PARTS}

    finished_shards = {stage: kill_in(stage, part, job, output) for stage, part in PARTS.items()}
    done = job.run(output)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "1 stages run, " in done.stdout

    for stage in ("match", "neighbours", "select/DU_0.3", "embed/wild", "evaluate/synthetic/student"):
        assert finished_shards[stage], stage
    for shards in finished_shards.values():
        assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in shards} == shards
    said = (tmp_path / "killed.log").read_text()
    assert re.search(r"goes on after step 55 of 80", said)
    assert re.search(r"goes on after step 5 of 10", said)
    compare(output, expected, PARTS)
