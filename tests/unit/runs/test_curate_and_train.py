"""What the main job finds out before Ray: its corpora stages run on the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from raysem import config
from raysem.runs.curate_and_train import JOB, stages
from raysem.runs.launch import main

RECIPE = """
corpora:
  wild: [{corpus: folder, root: wild, options: {csv: table.csv}}]
  held_out: [{corpus: folder, root: wild, options: {csv: table.csv, source: held}}]
  captions: [{corpus: captions, root: texts}]
  evaluation: {test: {corpus: folder, root: wild, options: {csv: table.csv, label_column: label}}}
teacher: {kind: raysem, location: model}
"""

Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def run(
    tmp_path: Path, tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The job with these arguments on three clips and two captions; its status, output and what was started."""
    for folder in ("wild", "texts"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).normal(size=800) * 0.1
        soundfile.write(tmp_path / "wild" / f"c{number}.wav", noise, 8000)
    (tmp_path / "wild" / "table.csv").write_text("file,label\nc0.wav,dog\nc1.wav,rain\nc2.wav,dog\n")
    (tmp_path / "texts" / "t.csv").write_text("caption\na dog barks\nrain falls\n")
    (tmp_path / "model").symlink_to(tiny_checkpoint)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, list[str]]:
        connected: list[str] = []

        def connect(_: Any) -> None:
            connected.append("Ray")
            raise KeyboardInterrupt

        status = main(replace(JOB, connect=connect), ["--recipe", "recipe.yaml", "--output", "out", *arguments])
        return status, capsys.readouterr().err, connected

    return call


def test_the_corpora_and_the_pool_of_captions_need_no_ray(run: Run):
    assert run("--until", "captions") == (0, "", [])
    status, _, connected = run()
    assert (status, connected) == (130, ["Ray"])


def test_the_stages_without_a_cluster_are_the_first_ones_and_the_report(run: Run):
    listed = stages(config.load_recipe(JOB.recipe_type, "recipe.yaml"), "out")
    without = [stage.name for stage in listed if not stage.needs_cluster]
    assert without == [
        "corpora/held_out",
        "corpora/wild",
        "corpora/captions",
        "corpora/evaluation/test",
        "captions",
        "report",
    ]
    assert [stage.name for stage in listed[:5]] == without[:5]


def test_a_change_of_the_cluster_leaves_the_report_as_it_is(run: Run):
    def digests(*overrides: str) -> dict[str, str]:
        recipe = config.load_recipe(JOB.recipe_type, "recipe.yaml", overrides)
        return {stage.name: stage.digest for stage in stages(recipe, "out")}

    before = digests()
    assert digests("cluster={training_workers: 2, local_cpus: 7, embedding: {embed_workers: 3}}") == before
    changed = digests("report.title=other")
    assert [name for name in before if changed[name] != before[name]] == ["report"]
    assert digests("student.training.steps=3")["report"] != before["report"]


def test_how_a_student_is_trained_does_not_train_it_again_and_what_for_does(run: Run):
    def digest(*overrides: str) -> str:
        recipe = config.load_recipe(JOB.recipe_type, "recipe.yaml", overrides)
        return next(stage.digest for stage in stages(recipe, "out") if stage.name == "student/student")

    how = ("cache_mib=7", "loader_threads=5", "torch_threads=1", "checkpoint_every_steps=3", "tensorboard=false")
    assert {digest(f"student.training.{change}") for change in how} == {digest()}
    for change in ("training.steps=3", "training.precision=bf16", "objective.soft_label_weight=0.1"):
        assert digest(f"student.{change}") != digest()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("corpora.wild.0.options.path_column=sound", "table.csv: no column 'sound'; there are file, label"),
        ("corpora.wild.0.options.csv=nothing.csv", "wild: none of nothing.csv is there"),
        ("corpora.captions.0.options.text_column=words", "t.csv: no column 'words'; there are caption"),
        ("corpora.wild=[{corpus: parquet, root: noise}]", "noise.parquet: not a readable Parquet file"),
        ("corpora.wild=[{corpus: parquet, root: torn}]", "torn.parquet: not a readable Parquet file"),
        ("corpora.wild=[{corpus: parquet, root: good, options: {id_column: id}}]", "no column 'id'; there are audio"),
        ("corpora.wild=[{corpus: clips_table, root: good}]", "good: no manifest.json; not a clips table"),
    ],
)
def test_a_corpus_that_is_wrong_is_one_line_and_status_2_before_ray(
    override: str, reason: str, run: Run, tmp_path: Path
):
    whole = tmp_path / "good" / "good.parquet"
    whole.parent.mkdir()
    audio = [{"bytes": (tmp_path / "wild" / "c0.wav").read_bytes(), "path": "c0.wav"}] * 3
    pq.write_table(pa.table({"audio": audio}), whole, compression="none", use_dictionary=False)
    content = bytearray(whole.read_bytes())
    content[4:100] = b"\xff" * 96  # the header of its first page
    for name, damaged in (("torn", bytes(content)), ("noise", b"no Parquet" * 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.parquet").write_bytes(damaged)
    status, error, connected = run("--set", override)
    assert (status, connected) == (2, [])
    assert error.startswith("curate_and_train: ")
    assert len(error.splitlines()) == 1
    assert reason in error
