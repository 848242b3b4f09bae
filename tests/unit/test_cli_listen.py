"""`raysem listen ...`: what people and programs read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from typer.testing import CliRunner

from raysem import cli, storage
from raysem.errors import DataError, UserError
from raysem.tables import CLIPS


def call(*arguments: str) -> str:
    return CliRunner().invoke(cli.app, ["listen", *arguments], catch_exceptions=False).output


@pytest.fixture
def given(tmp_path: Path) -> tuple[str, ...]:
    """The options that say what is compared: six clips of noise, two models of two tags."""
    buffer = io.BytesIO()
    noise_T = 0.1 * np.random.default_rng(0).normal(size=4000)
    soundfile.write(buffer, noise_T, 16_000, format="WAV", subtype="PCM_16")
    audio = {"bytes": buffer.getvalue(), "path": None}
    rows = [{"clip_id": f"c{number}", "audio": audio} for number in range(6)]
    storage.write_table(str(tmp_path / "clips.parquet"), pa.Table.from_pylist(rows, schema=CLIPS))
    for model, name in (("one", "Wind"), ("two", "Rain")):
        tags = [[{"name": name, "score": 0.9}, {"name": "Noise", "score": 0.1}]] * 6
        table = pa.table({"clip_id": [row["clip_id"] for row in rows], "tags": tags})
        storage.write_table(str(tmp_path / f"{model}.parquet"), table)
    options = {"clips": "clips.parquet", "first": "one.parquet", "second": "two.parquet", "output": "study"}
    return tuple(word for name, file in options.items() for word in (f"--{name}", str(tmp_path / file)))


def test_a_test_is_built_answered_and_scored(given: tuple[str, ...], tmp_path: Path):
    lines = call("build", *given, "--num-clips", "4").splitlines()
    key = storage.read_json(str(tmp_path / "study" / "key.json"))
    assert lines[0] == f"study {key['study']}: 4 clips; the two lists are the same for 0 of them"
    assert lines[1].startswith(f"page for the raters: {tmp_path}/study/page/index.html")
    assert lines[2] == f"key, not for them:   {tmp_path}/study/key.json"
    answers = [
        {"clip": clip["token"], "choice": clip[side]["token"], "seconds": 3.5}
        for clip in key["clips"][:3]
        for side in ("left", "right")
        if clip[side]["model"] == "second"
    ]
    content = {"format": "raysem-listening-answers", "version": 1, "study": key["study"], "rater": "Ann"}
    storage.write_json(str(tmp_path / "ann.json"), content | {"exported": "", "answers": answers})
    files = (str(tmp_path / "study" / "key.json"), str(tmp_path / "ann.json"))
    card = call("score", *files)
    row = next(line for line in card.splitlines() if line.startswith("Ann "))
    num_left = sum(clip["left"]["model"] == "second" for clip in key["clips"][:3])
    assert " ".join(row.split()) == f"Ann 3 of 4 0 3 0 0.0 % [0.0, 70.8] 0.25 {num_left} of 3 3.5"
    found = json.loads(call("score", *files, "--json"))
    assert found["raters"][0]["tally"]["p_value"] == 0.25
    assert found["num_clips"] == 4


def test_building_answers_in_json_and_takes_named_clips(given: tuple[str, ...], tmp_path: Path):
    (tmp_path / "ids.txt").write_text("c4\n\n c1 \n")
    found = json.loads(call("build", *given, "--ids", str(tmp_path / "ids.txt"), "--json"))
    assert found["clips"] == 2
    key = storage.read_json(found["key"])
    assert {clip["clip_id"] for clip in key["clips"]} == {"c1", "c4"}


def test_mistakes_are_errors_of_one_line(given: tuple[str, ...], tmp_path: Path):
    with pytest.raises(UserError, match=r"^--num-clips 40: only 6 clips"):
        call("build", *given)
    with pytest.raises(UserError, match="--ids names the clips, --num-clips draws them"):
        call("build", *given, "--ids", "x", "--num-clips", "3")
    with pytest.raises(UserError, match=r"^--ids .*no-such: no such file"):
        call("build", *given, "--ids", str(tmp_path / "no-such"))
    with pytest.raises(UserError, match="max_seconds: expected greater than 0"):
        call("build", *given, "--max-seconds", "0")
    with pytest.raises(DataError, match=r"key\.json: no such file"):
        call("score", str(tmp_path / "key.json"), str(tmp_path / "ann.json"))
