"""Which model of a run is meant: by name, by fold, by what is finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from raysem import storage
from raysem.errors import UserError
from raysem.runs.found_classifier import find_classifier
from raysem.runs.found_model import planned_stages
from raysem.runs.found_tagger import find_tagger
from raysem.stages import DONE, Stage, write_plan


def made_run(folder: Path, names: Sequence[str], *, finished: Sequence[str]) -> dict[str, str]:
    """The plan of a run with these stages, some of them finished; name -> where its model is."""
    stages = [Stage(name, lambda _: {}, settings=name) for name in names]
    write_plan(stages, str(folder), {})
    for stage in stages:
        if stage.name in finished:
            storage.write_json(storage.join(stage.folder(str(folder)), DONE), {})
    return {stage.name: storage.join(stage.folder(str(folder)), "model") for stage in stages}


def folds(name: str, *numbers: int) -> list[str]:
    return [f"classifier/{name}/fold{number}" for number in numbers]


def test_without_a_fold_the_first_finished_one_is_taken_by_number(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    models = made_run(tmp_path, folds("classifier", 10, 1, 2), finished=folds("classifier", 10, 2))
    with caplog.at_level("INFO", logger="raysem"):
        assert find_classifier(str(tmp_path)) == models["classifier/classifier/fold2"]
    assert "the model tested on fold 2 is taken (finished: 2, 10; --fold chooses)" in caplog.text
    assert find_classifier(str(tmp_path), fold=10) == models["classifier/classifier/fold10"]


def test_the_only_fold_of_the_only_classifier_is_taken_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    models = made_run(tmp_path, folds("mean", 3), finished=folds("mean", 3))
    with caplog.at_level("INFO", logger="raysem"):
        assert find_classifier(str(tmp_path)) == models["classifier/mean/fold3"]
    assert not caplog.text


def test_a_name_is_needed_where_several_classifiers_have_finished_folds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    names = [*folds("mean", 1, 2), *folds("cscm", 1, 2), *folds("seq_lstm", 1, 2)]
    models = made_run(tmp_path, names, finished=[*folds("mean", 1), *folds("cscm", 2)])
    with pytest.raises(UserError, match=r"has the classifiers mean, cscm; say which one with --model"):
        find_classifier(str(tmp_path), fold=2)
    assert find_classifier(str(tmp_path), "cscm") == models["classifier/cscm/fold2"]
    models = made_run(tmp_path / "one", names, finished=folds("mean", 1))
    with caplog.at_level("INFO", logger="raysem"):
        assert find_classifier(str(tmp_path / "one"), fold=1) == models["classifier/mean/fold1"]
    assert "of its classifiers only mean is finished, which is used" in caplog.text


@pytest.mark.parametrize(
    ("name", "fold", "reason"),
    [
        ("spa", None, r"--model spa: .* has no such classifier; there are mean, cscm$"),
        ("cscm", None, r"classifier cscm is not finished; run the job up to it \(--until classifier/cscm\)"),
        ("mean", 3, r"--fold 3: .*: classifier mean has no such fold; there are 1, 2$"),
        ("mean", 2, r"classifier mean: fold 2 is not finished; .* \(--until classifier/mean/fold2\)"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(name: str, fold: int | None, reason: str, tmp_path: Path):
    made_run(tmp_path, [*folds("mean", 1, 2), *folds("cscm", 1, 2)], finished=folds("mean", 1))
    with pytest.raises(UserError, match=reason):
        find_classifier(str(tmp_path), name, fold)


def test_a_folder_of_one_model_takes_no_choice(tmp_path: Path):
    storage.write_json(str(tmp_path / "config.json"), {})
    assert find_classifier(str(tmp_path)) == find_tagger(str(tmp_path)) == str(tmp_path)
    with pytest.raises(UserError, match=r"--model mean: .* is one model; --model is for the classifiers of a run"):
        find_classifier(str(tmp_path), "mean")
    with pytest.raises(UserError, match=r"--fold 1: .* is one model"):
        find_classifier(str(tmp_path), fold=1)
    with pytest.raises(UserError, match=r"--model spa: .* is one model; --model is for the taggers of a run"):
        find_tagger(str(tmp_path), "spa")


def test_runs_of_another_kind_are_told_apart(tmp_path: Path):
    made_run(tmp_path / "spa", ["classes", "tagger/spa"], finished=["tagger/spa"])
    with pytest.raises(UserError, match="a run that trains no classifier"):
        find_classifier(str(tmp_path / "spa"))
    made_run(tmp_path / "semanticac", folds("mean", 1), finished=folds("mean", 1))
    with pytest.raises(UserError, match="a run that trains no tagger"):
        find_tagger(str(tmp_path / "semanticac"))
    made_run(tmp_path / "odd", ["classifier/mean"], finished=["classifier/mean"])
    with pytest.raises(UserError, match="the stage classifier/mean is of no fold"):
        find_classifier(str(tmp_path / "odd"))


def test_a_plan_that_is_missing_or_damaged_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no run\.json there; not the output of a run"):
        planned_stages(str(tmp_path))
    for content in ('{"stages": [', "[]", '{"stages": [{"name": "tagger/a"}]}', '{"stages": null}'):
        storage.write_text(str(tmp_path / "run.json"), content)
        with pytest.raises(UserError, match=r"run\.json: not readable; run the job again"):
            planned_stages(str(tmp_path))
