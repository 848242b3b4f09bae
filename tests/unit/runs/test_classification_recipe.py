"""A recipe of `train_semanticac`: the stages that it plans, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raysem import config
from raysem.errors import ConfigError, DataError
from raysem.runs.classification import JOB, TRAINING
from raysem.runs.classification_recipe import ClassificationRecipe
from raysem.runs.launch import RECIPES, main
from raysem.stages import Stage, run_stages

PATHS = [RECIPES / JOB.default_recipe, RECIPES / "semanticac" / "esc50_small.yaml"]
"""Those of the paper's tables have tests of their own, test_semanticac_recipes.py."""
SOURCE = {"corpus": "clips_table", "root": "/clips"}
BASE = {"corpora": {"clips": [SOURCE]}, "folds": {"official": [1, 2, 3]}}
TWO = {"baseline": {"classifier.model.similarity": None}, "cscm": {}}


def recipe(**changes: Any) -> ClassificationRecipe:
    return config.build(ClassificationRecipe, config.with_overrides(BASE, changes.items()))


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        recipe(**changes).classifiers()
    assert "\n" not in str(error.value)
    return str(error.value)


def planned(**changes: Any) -> dict[str, Stage]:
    return {stage.name: stage for stage in JOB.stages(recipe(**changes), "/out")}


def changed(before: Mapping[str, Stage], after: Mapping[str, Stage]) -> set[str]:
    """The stages of both that would be run again."""
    return {name for name in before.keys() & after.keys() if before[name].digest != after[name].digest}


# The recipes for small machines


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recipe_for_a_small_machine_is_valid_reads_back_as_itself_and_plans_its_stages(path: Path):
    loaded = config.load_recipe(ClassificationRecipe, path)
    nowhere = [f"corpora.roots.{name}=/nowhere/{name}" for name in loaded.corpora.roots]
    loaded = config.load_recipe(ClassificationRecipe, path, nowhere)
    assert config.build(ClassificationRecipe, config.read_yaml(config.to_yaml(loaded), "again")) == loaded
    names = [stage.name for stage in JOB.stages(loaded, "/nowhere/out")]
    wanted = {f"classifier/{name}/fold{fold}" for name in loaded.classifiers() for fold in loaded.folds.tested}
    assert {name for name in names if name.startswith("classifier/")} == wanted
    assert names[-2:] == ["evaluate/scores", "report"]
    assert all(one.training.selection_metric == "accuracy" for one in loaded.classifiers().values())


# The stages


def test_the_stages_of_two_classifiers_and_three_folds_in_order():
    stages = planned(variants=TWO, **{"folds.held_out_share": 0.1})
    assert list(stages) == [
        *(f"corpora/fold{fold}/{part}" for fold in (1, 2, 3) for part in ("held_out", "clips")),
        *("labels", "labels/tested"),
        *(f"classifier/{name}/fold{fold}" for name in TWO for fold in (1, 2, 3)),
        *(f"evaluate/{name}/fold{fold}/{part}" for name in TWO for fold in (1, 2, 3) for part in ("clips", "held_out")),
        *("evaluate/scores", "report"),
    ]


def test_the_trainings_are_one_group_and_nothing_before_them_needs_a_cluster():
    stages = planned(variants=TWO)
    assert {name.partition("/")[0] for name, stage in stages.items() if stage.group == TRAINING} == {"classifier"}
    without = [name for name, stage in stages.items() if not stage.needs_cluster]
    assert {name.partition("/")[0] for name in without} == {"corpora", "labels", "report"}
    assert all(stage.group in ("", TRAINING) for stage in stages.values())


def test_a_classifier_reads_the_other_folds_and_no_clip_of_its_own():
    stages = planned(**{"folds.held_out_share": 0.1})
    read = {stage.name for stage in stages["classifier/classifier/fold2"].inputs}
    corpora = {f"corpora/fold{fold}/{part}" for fold in (1, 3) for part in ("held_out", "clips")}
    assert read == {"labels", *corpora}
    scored = {stage.name for stage in stages["evaluate/classifier/fold2/clips"].inputs}
    assert scored == {"classifier/classifier/fold2", "corpora/fold2/clips"}
    assert {stage.name for stage in stages["evaluate/classifier/fold2/held_out"].inputs} == {
        "classifier/classifier/fold2", "corpora/fold2/held_out"
    }  # fmt: skip


def test_only_the_folds_that_are_tested_are_trained_for():
    stages = planned(**{"folds.test": [3, 1]})
    assert [name for name in stages if name.startswith("classifier/")] == [
        "classifier/classifier/fold1", "classifier/classifier/fold3"
    ]  # fmt: skip


def test_a_changed_template_trains_that_variant_again_and_no_other():
    before = planned(variants=TWO)
    after = planned(variants=TWO | {"cscm": {"classifier.model.prompts.templates": ["{label}"]}})
    assert changed(before, after) == {
        *(f"classifier/cscm/fold{fold}" for fold in (1, 2, 3)),
        *(f"evaluate/cscm/fold{fold}/clips" for fold in (1, 2, 3)),
        *("evaluate/scores", "report"),
    }


def test_to_test_other_folds_leaves_what_is_trained_and_scored():
    before, after = planned(**{"folds.test": [1, 2]}), planned()
    assert changed(before, after) == {"labels/tested", "evaluate/scores", "report"}
    assert after.keys() - before.keys() == {"classifier/classifier/fold3", "evaluate/classifier/fold3/clips"}


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"seed": 1}, True),
        ({"folds.official": [1, 2, 3, 4]}, True),
        ({"folds.held_out_share": 0.2}, True),
        ({"labels": ["a", "b"]}, True),
        ({"audio.silence_dbfs": -50}, True),
        ({"classifier.epochs": 3}, True),
        ({"classifier.training.optimizer": "sgd"}, True),
        ({"classifier.training.log_every_steps": 3}, False),
        ({"cluster.training_workers": 2}, False),
        ({"evaluation.metrics.num_resamples": 7}, False),
        ({"report.title": "x"}, False),
    ],
    ids=str,
)
def test_what_changes_the_weights_trains_again_and_nothing_else_does(change: dict[str, Any], trained: bool):
    training = {"classifier.training.selection_metric": "accuracy"}
    again = changed(planned(**training), planned(**training, **change))
    classifiers = {f"classifier/classifier/fold{fold}" for fold in (1, 2, 3)}
    assert again & classifiers == (classifiers if trained else set())


def test_other_metrics_are_scored_again_from_what_is_there():
    before, after = planned(variants=TWO), planned(variants=TWO, **{"evaluation.baseline": "cscm"})
    assert changed(before, after) == {"evaluate/scores", "report"}


def test_where_it_is_computed_changes_no_stage():
    assert changed(planned(), planned(**{"cluster.trainings_at_once": 3, "cluster.local_cpus": 2})) == set()


def test_a_label_of_one_fold_alone_stops_the_run_before_a_cluster_is_asked_for(
    tmp_path: Path, write_part: Callable[..., str]
):
    rows = [{"clip_id": f"{n}", "labels": ["Rain", "siren"][n % 2 :][:1], "fold": n // 2 + 1} for n in range(6)]
    root = write_part(tmp_path / "table", [*rows, {"clip_id": "x", "labels": ["bark"], "fold": 2}])

    def connect() -> None:
        raise AssertionError("Ray was started")

    output = str(tmp_path / "out")
    changes = {"corpora.clips.0.root": root}
    with pytest.raises(DataError, match=r"^folds: label 'bark' has no clip to train on when fold 2 is tested"):
        run_stages(JOB.stages(recipe(**changes), output), output, connect=connect)
    results = run_stages(
        JOB.stages(recipe(**changes, **{"folds.test": [1]}), output), output, connect=connect, until="labels"
    )
    assert [name for name, result in results.items() if not result.skipped] == ["labels/tested"]


def test_a_dry_run_prints_the_recipe_and_the_stages_and_runs_nothing(
    tmp_path: Path, write_part: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    def refuse(_: Any) -> None:
        raise AssertionError("Ray was started")

    root = write_part(tmp_path / "table", [{"clip_id": "a", "labels": ["Rain"], "fold": 1}])
    given = recipe(**{"corpora.clips.0.root": root}, variants=TWO)
    path, output = tmp_path / "recipe.yaml", str(tmp_path / "out")
    path.write_text(config.to_yaml(given))
    arguments = ["--recipe", str(path), "--output", output, "--set", "folds.test=[2]", "--dry-run"]
    assert main(replace(JOB, connect=refuse), arguments) == 0
    text = capsys.readouterr().out
    shown = config.load_recipe(ClassificationRecipe, path, ["folds.test=[2]"])
    assert text.startswith(config.to_yaml(shown))
    stages = JOB.stages(shown, output)
    assert text.endswith("# stages:\n" + "".join(f"#   run  {stage.name} {stage.digest}\n" for stage in stages))
    assert not Path(output).exists()


# Wrong settings


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"folds.drawn": 3}, "folds: give either official folds or a number of drawn ones"),
        ({"folds.official": []}, "folds: give either official folds or a number of drawn ones"),
        ({"folds.official": [1, 2, 1]}, "folds: official: a fold is named twice in [1, 2, 1]"),
        ({"folds.official": [1]}, "folds: a cross-validation has at least 2 folds"),
        ({"folds.official": [], "folds.drawn": 1}, "folds: a cross-validation has at least 2 folds"),
        ({"folds.test": [2, 4]}, "folds: test: no fold 4; there are [1, 2, 3]"),
        ({"folds.held_out_share": 1}, "folds.held_out_share: expected less than 1, got 1"),
        ({"folds.official": [0, 1]}, "folds.official.0: expected greater than 0, got 0"),
        ({"corpora.evaluation": {"test": SOURCE}}, "corpora: evaluation: has no meaning here: each fold is the test"),
        ({"corpora.clips": [SOURCE | {"folds": [1]}]}, "corpora: clips.folds: the folds are chosen by the section"),
        ({"corpora.clips": []}, "corpora.clips: "),
        ({"labels": ["a", "b", "a"]}, "labels: 'a' is named twice"),
        ({"labels": ["a"]}, "labels: classification needs at least 2 labels, there is 'a' alone"),
        ({"classifier.model.prompts.templates": ["a sound"]}, "classifier.model.prompts.templates: a prompt template"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line_with_its_key(changes: dict[str, Any], reason: str):
    assert refused(**changes).startswith(f"recipe: {reason}")


@pytest.mark.parametrize("key", ["seed", "folds.test", "labels", "corpora.rows_per_shard", "classifier"])
def test_a_variant_may_not_touch_what_all_share(key: str):
    reason = f"recipe: variants: a: {key} is shared by all variants; a variant sets classifier.*"
    assert refused(variants={"a": {key: 1}}) == reason


def test_a_variants_wrong_key_is_found_before_anything_runs():
    text = refused(variants={"a": {"classifier.trainin.steps": 3}})
    assert text.startswith("variants.a: classifier.trainin: no such key (did you mean training?)")
    text = refused(variants={"a": {}, "b": {"classifier.model.similarity.name": "cbam"}})
    assert text.startswith("variants.b: classifier.model.similarity.name: expected ")


@pytest.mark.parametrize("variants", [{}, TWO])
def test_an_unknown_baseline_is_told_the_names_that_exist(variants: dict[str, Any]):
    wrong = recipe(variants=variants, **{"evaluation.baseline": "mean"})
    names = ", ".join(variants) or "classifier"
    with pytest.raises(ConfigError, match=rf"^evaluation\.baseline: no classifier 'mean'; there are {names}$"):
        JOB.stages(wrong, "/out")


def test_folds_are_tested_in_their_own_order():
    folds = recipe(**{"folds.official": [3, 1, 2], "folds.test": [2, 3]}).folds
    assert (folds.numbers, folds.tested) == ((3, 1, 2), (3, 2))
    assert recipe(**{"folds.official": [], "folds.drawn": 4}).folds.tested == (1, 2, 3, 4)
