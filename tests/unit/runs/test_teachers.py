from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysem import config, storage
from raysem.errors import ConfigError, UserError
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.runs import model_record, teachers
from raysem.runs.curation_recipe import CurateAndTrainRecipe, TeacherSettings

WILD = {"corpora": {"wild": [{"corpus": "clips_table", "root": "/wild"}]}}


def recipe(**changes: Any) -> CurateAndTrainRecipe:
    return config.build(CurateAndTrainRecipe, config.with_overrides(WILD, changes.items()))


def test_a_loaded_teacher_is_copied_so_that_the_run_needs_no_other_place(tiny_checkpoint: str, tmp_path: Path):
    folder = str(tmp_path / "teacher")
    summary = teachers.load(folder, TeacherSettings(kind="raysem", location=tiny_checkpoint))
    source = teachers.source_of(folder)
    assert source == TeacherSource(kind="raysem", location=f"{folder}/model")
    assert summary == model_record.about(folder)
    assert (summary["sample_rate"], summary["crop_samples"], summary["embedding_width"]) == (8000, 8000, 16)
    ours, theirs = load_teacher(source), load_teacher(TeacherSource(location=tiny_checkpoint))
    assert ours.fingerprint() == theirs.fingerprint() == summary["fingerprint"]
    np.testing.assert_array_equal(ours.embed_texts(["a dog"]), theirs.embed_texts(["a dog"]))
    teachers.require_warm_start(folder)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no raysem checkpoint there"):
        teachers.load(str(tmp_path / "teacher"), TeacherSettings(kind="raysem", location=str(tmp_path / "x")))


def test_a_student_starts_only_from_weights_of_ours(tmp_path: Path):
    storage.write_json(
        str(tmp_path / model_record.MODEL_JSON), {"source": {"kind": "hf_clap", "location": "x", "text_encoder": "y"}}
    )
    with pytest.raises(UserError, match="a student cannot start from its weights"):
        teachers.require_warm_start(str(tmp_path))


def test_an_identity_follows_local_files_and_reads_no_name_of_a_hub(tiny_checkpoint: str, tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(b"1")
    settings = TeacherSettings(kind="clap2022", location=str(tmp_path / "w.pth"))
    before = teachers.identity(settings)
    assert teachers.identity(settings) == before
    os.utime(tmp_path / "w.pth", (1, 1))
    assert teachers.identity(settings) != before
    folder = teachers.identity(TeacherSettings(kind="raysem", location=tiny_checkpoint))
    assert "config.json" in [entry[0] for entry in folder["files"]]
    assert teachers.identity(TeacherSettings(kind="hf_clap", location="some/model"))["files"] == []


def test_a_teacher_is_trained_from_scratch_and_a_student_from_its_weights(tiny_checkpoint: str, tmp_path: Path):
    changed = recipe(seed=3, **{"teacher.training.steps": 5, "student.training.steps": 6})
    spec = teachers.training_spec(changed, "/out", ["/clips"], ["/held"])
    assert (spec.model, spec.initial_model) == (changed.teacher.model, None)
    assert (spec.sources, spec.held_out, spec.training.steps, spec.seed) == (("/clips",), ("/held",), 5, 3)
    folder = str(tmp_path / "teacher")
    teachers.load(folder, TeacherSettings(kind="raysem", location=tiny_checkpoint))
    student = teachers.student_spec(changed, "/out", folder, ["/pairs"], [], ["/held"])
    assert (student.model, student.initial_model) == (None, f"{folder}/model")
    assert (student.sources, student.training.steps) == (("/pairs",), 6)


def test_a_student_with_nothing_to_replay_does_not_ask_for_it(tiny_checkpoint: str, tmp_path: Path):
    changed = recipe(**{"student.objective": {"replay_probability": 0.5, "soft_label_weight": 0.3}})
    folder = str(tmp_path / "teacher")
    teachers.load(folder, TeacherSettings(kind="raysem", location=tiny_checkpoint))
    without = teachers.student_spec(changed, "/out", folder, ["/pairs"], [], ["/held"]).objective
    assert (without.replay_probability, without.soft_label_weight) == (0.0, 0.3)
    given = teachers.student_spec(changed, "/out", folder, ["/pairs"], ["/replay"], ["/held"])
    assert (given.objective.replay_probability, given.replay) == (0.5, ("/replay",))
