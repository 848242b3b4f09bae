from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysem import config
from raysem.errors import ConfigError
from raysem.sweeps.measured import JOBS, job_of
from raysem.sweeps.plan import SweepPlan, common_stages
from raysem.sweeps.selections import scored_selection
from raysem.sweeps.space import load_space

MakePlan = Callable[..., SweepPlan]
THRESHOLD, ALPHA = "curation.similarity_threshold", "student.objective.soft_label_weight"
TWO: dict[str, Any] = {THRESHOLD: {"grid": [0.3, 0.4]}, ALPHA: {"grid": [0.0, 0.3]}}
SPACES = sorted((Path(__file__).parents[3] / "tuning" / "spaces").glob("*.yaml"))


def names(stages: Any) -> list[str]:
    return [stage.name for stage in stages]


def refused(plan: SweepPlan) -> str:
    with pytest.raises(ConfigError) as error:
        plan.check("space.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_trial_of_another_threshold_shares_all_that_comes_before_select(make_plan: MakePlan):
    plan = make_plan(TWO)
    needed = [plan.needed(trial) for trial in plan.check("space.yaml")]
    common = names(common_stages(needed))
    assert {"teacher", "embed/wild", "embed/captions", "match"} <= set(common)
    for stages in needed:
        assert [name for name in names(stages) if name not in common] == [names(stages)[-2], "student/student"]
        assert names(stages)[-2].startswith("select/DU_")
    selects = {(stages[-2].name, stages[-2].digest) for stages in needed}
    assert len(selects) == 2  # the soft-label coefficient selects nothing anew
    assert len({stages[-1].digest for stages in needed}) == 4


@pytest.mark.parametrize(
    ("job", "keys", "metric"),
    [
        ("curate_and_train", TWO, "recall_at_1"),
        ("train_spa", {"tagger.objective.obce_weight": {"grid": [0.0, 1.0]}}, "omap"),
        ("train_semanticac", {"classifier.model.similarity.name": {"grid": ["mean", "cscm"]}}, "accuracy"),
    ],
)
def test_a_trial_scores_no_test_set_and_reads_none_in_training(job: str, keys: Any, metric: str, make_plan: MakePlan):
    plan = make_plan(keys, job=job, metric=metric)
    for trial in plan.check("space.yaml"):
        needed = plan.needed(trial)
        assert not [name for name in names(needed) if name.startswith(("evaluate/", "report", "corpora/evaluation"))]
        assert all(stage.name.startswith(JOBS[job].models) for stage in plan.trained(trial))
        in_full = names(plan.stages(trial))
        assert "report" in in_full
        assert any(name.startswith("evaluate/") for name in in_full)
        by_name = {stage.name: stage.digest for stage in plan.stages(trial)}
        assert all(by_name[stage.name] == stage.digest for stage in needed)  # the same as a run of best.yaml has


def test_a_trial_trains_one_model_per_fold_whatever_variants_the_recipe_has(make_plan: MakePlan):
    keys = {"classifier.model.similarity.name": {"grid": ["mean", "cscm"]}}
    plan = make_plan(keys, job="train_semanticac", metric="accuracy")
    assert names(plan.trained(plan.check("x")[0])) == ["classifier/classifier/fold1", "classifier/classifier/fold2"]


def test_a_full_recipe_of_a_trial_reads_back_with_the_same_stages(make_plan: MakePlan):
    plan = make_plan({**TWO, "seed": {"grid": [7]}})
    trial = plan.check("x")[-1]
    text = config.to_yaml(plan.recipe(trial))
    job = plan.job.job
    again = config.build(job.recipe_type, config.read_yaml(text, "best.yaml"))
    assert again == plan.recipe(trial)
    assert [s.digest for s in job.stages(again, plan.run)] == [s.digest for s in plan.stages(trial)]
    assert again.seed == 7


def test_settings_of_the_command_line_are_over_those_of_the_space(make_plan: MakePlan):
    plan = make_plan(TWO, "student.training.steps=3", set={"student.training.steps": 9, "teacher.training.steps": 8})
    assert plan.base["student"]["training"]["steps"] == 3
    assert plan.base["teacher"]["training"]["steps"] == 8


def test_a_key_that_is_swept_cannot_be_set(make_plan: MakePlan):
    with pytest.raises(ConfigError, match=f"--set {THRESHOLD}: the space sweeps it"):
        make_plan(TWO, f"{THRESHOLD}=0.5")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "accuracy"}, "metric: 'accuracy' is not measured on held-out data of curate_and_train"),
        ({"metric": "zero_shot"}, "metric: 'zero_shot' is not measured on held-out data"),
        ({"metric": "held_out_loss"}, "better when it is less; write direction: min"),
        ({"job": "train"}, "job: no job 'train'; there are curate_and_train, train_spa, train_semanticac"),
    ],
)
def test_a_metric_that_is_not_a_held_out_one_is_refused(changes: Any, said: str, make_plan: MakePlan):
    space = {"keys": TWO, "metric": "recall_at_1", **changes}
    from raysem.sweeps.space import SweepSpace

    with pytest.raises(ConfigError) as error:
        SweepPlan.of(config.build(SweepSpace, space), {}, "out")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("keys", "overrides", "changes", "said"),
    [
        ({"curation.threshold": {"grid": [1]}}, (), {}, "curation.threshold: no such key"),
        ({ALPHA: {"grid": [0.3, 1.5]}}, (), {}, f"{ALPHA}: expected less than or equal to 1, got 1.5"),
        (
            {THRESHOLD: {"uniform": [0.3, 1.2]}}, (), {"search": {"kind": "random", "trials": 2}},
            f"{THRESHOLD}: expected less than or equal to 1, got 1.2",
        ),
        ({THRESHOLD: {"grid": [0.1, 0.3]}}, (), {}, "curation.match_floor: 0.2 is above the threshold 0.1"),
        (
            {"curation.strategy": {"grid": ["DU", "DS"]}}, (), {},
            "strategy DS keeps annotated pairs, which have no ranks: leave out top_k_per_clip",
        ),
        (TWO, ("corpora.held_out=[]",), {}, "corpora.held_out: is empty"),
        (TWO, (), {"metric": "pairs", "scheduler": {"kind": "asha"}}, "pairs has no curve"),
        (
            {THRESHOLD: {"uniform": [0.3, 0.5]}}, (), {"metric": "pairs", "search": {"kind": "tpe", "trials": 3}},
            "take grid or random",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_refused_in_one_line(
    keys: Any, overrides: tuple[str, ...], changes: Any, said: str, make_plan: MakePlan
):
    assert said in refused(make_plan(keys, *overrides, **changes))


def test_values_that_do_not_go_together_name_the_trial(make_plan: MakePlan):
    keys = {"curation.strategy": {"grid": ["DU", "DS"]}, "curation.top_k_per_clip": {"grid": [None, 3]}}
    message = refused(make_plan(keys, set={"curation.top_k_per_caption": None}))
    assert message.startswith("trial strategy=DS, top_k_per_clip=3: curation: strategy DS keeps annotated pairs")


def test_a_cross_validation_has_no_curve_to_stop_by_unless_one_fold_is_tested(make_plan: MakePlan):
    keys = {"classifier.model.similarity.name": {"grid": ["mean", "cscm"]}}
    of = {"job": "train_semanticac", "metric": "accuracy", "scheduler": {"kind": "median"}}
    assert "this recipe has 2" in refused(make_plan(keys, **of))
    assert make_plan(keys, "folds.test=[1]", **of).check("x")


def test_without_a_held_out_share_folds_cannot_be_compared(make_plan: MakePlan):
    keys = {"classifier.model.similarity.name": {"grid": ["mean", "cscm"]}}
    plan = make_plan(keys, "folds.held_out_share=0", job="train_semanticac", metric="accuracy")
    assert "folds.held_out_share: is empty" in refused(plan)


def test_a_sweep_by_a_number_of_the_curated_set_needs_scored_pairs(make_plan: MakePlan):
    plan = make_plan(TWO, "curation.strategy=DS", "curation.top_k_per_clip=null", metric="pairs")
    with pytest.raises(ConfigError, match="DS keeps annotated pairs without a score"):
        scored_selection(plan.trained(plan.check("x")[0])[0])


def test_tpe_is_checked_at_the_ends_of_its_ranges_with_every_seed(make_plan: MakePlan):
    keys = {THRESHOLD: {"uniform": [0.3, 0.6]}, "seed": {"grid": [0, 1]}}
    trials = make_plan(keys, search={"kind": "tpe", "trials": 5}).check("x")
    assert {(trial.params[THRESHOLD], trial.seed) for trial in trials} >= {(0.3, 0), (0.6, 0), (0.3, 1), (0.6, 1)}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_that_is_shipped_fits_its_recipe(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    space = load_space(str(path))
    job = job_of(space.job).job
    recipe = config.load_recipe(job.recipe_type, path.parent / space.recipe)
    plan = SweepPlan.of(space, config.plain(recipe), str(tmp_path))
    trials = plan.check(str(path))
    assert len(trials) >= 6
    assert plan.needed(trials[0])
