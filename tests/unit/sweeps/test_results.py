from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from statistics import stdev
from typing import Any

import pytest

from raysem import config
from raysem.sweeps import results
from raysem.sweeps.plan import SweepPlan
from raysem.sweeps.trial import Trial, TrialRecord

THRESHOLD, ALPHA = "curation.similarity_threshold", "student.objective.soft_label_weight"
KEYS: dict[str, Any] = {THRESHOLD: {"grid": [0.3, 0.4]}, ALPHA: {"grid": [0.0, 0.3]}, "seed": {"grid": [0, 1, 2]}}
# By threshold, alpha and seed. 0.3/0.3 has the best mean, 0.4/0.0 the best single seed.
METRICS = {
    (0.3, 0.0): (0.50, 0.52, 0.54),
    (0.3, 0.3): (0.60, 0.62, 0.58),
    (0.4, 0.0): (0.70, 0.40, 0.10),
    (0.4, 0.3): (0.90, None, None),
}
MakePlan = Callable[..., SweepPlan]


def record(threshold: float, alpha: float, seed: int | None, metric: float | None, **more: Any) -> TrialRecord:
    begun = TrialRecord.begun(Trial({THRESHOLD: threshold, ALPHA: alpha}, seed))
    status = "finished" if metric is not None else "failed"
    return replace(begun, **{"status": status, "metric": metric, "reason": "" if metric is not None else "x", **more})


RECORDS = [
    record(threshold, alpha, seed, metric)
    for (threshold, alpha), metrics in METRICS.items()
    for seed, metric in enumerate(metrics)
]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_best_setting_has_the_best_mean_of_all_seeds_and_its_best_seed_is_the_best_trial(make_plan: MakePlan):
    content = results.content_of(make_plan(KEYS), RECORDS, space_yaml="")
    best = content.best_trial
    assert best is not None
    assert (dict(best.params), best.seed) == ({THRESHOLD: 0.3, ALPHA: 0.3}, 1)


def test_less_is_better_where_the_space_says_so(make_plan: MakePlan):
    plan = make_plan(KEYS, metric="held_out_loss", direction="min")
    best = results.content_of(plan, RECORDS, space_yaml="").best_trial
    assert best is not None
    assert (dict(best.params), best.seed) == ({THRESHOLD: 0.4, ALPHA: 0.0}, 2)


def test_a_setting_that_lacks_seeds_is_best_only_where_none_has_them_all(make_plan: MakePlan):
    lacking = [r for r in RECORDS if r.seed == 0 or (r.params[ALPHA] == 0.3 and r.params[THRESHOLD] == 0.4)]
    best = results.content_of(make_plan(KEYS), lacking, space_yaml="").best_trial
    assert best is not None
    assert best.metric == 0.90


def test_settings_are_means_and_deviations_over_their_finished_seeds(make_plan: MakePlan):
    table = rows(results.settings_csv(results.content_of(make_plan(KEYS), RECORDS, space_yaml="")))
    by_setting = {(float(row[THRESHOLD]), float(row[ALPHA])): row for row in table}
    assert [row["status"] for row in table] == ["finished"] * 4
    for setting, metrics in METRICS.items():
        known = [metric for metric in metrics if metric is not None]
        row = by_setting[setting]
        assert int(row["seeds"]) == len(known)
        assert float(row["mean"]) == pytest.approx(sum(known) / len(known))
        assert row["sd"] == "null" if len(known) == 1 else float(row["sd"]) == pytest.approx(stdev(known))


def test_every_trial_that_has_ended_is_a_line_of_the_table_and_one_that_runs_is_none(make_plan: MakePlan):
    stopped = record(0.3, 0.0, 7, 0.25, status="stopped", reason="by the scheduler, after step 5",
                     curve=[{"step": 5, "metric": 0.25}], stages={"match": "reused", "student/student": "ran"},
                     facts={"pairs": 12, "mean_similarity": 0.5}, watched="/somewhere")  # fmt: skip
    running = TrialRecord.begun(Trial({THRESHOLD: 0.3, ALPHA: 0.0}, 8))
    content = results.content_of(make_plan(KEYS), [*RECORDS, stopped, running], space_yaml="")
    table = rows(results.trials_csv(content, {trial.id: trial.seed or 0 for trial in content.trials}))
    assert len(table) == len(RECORDS) + 1
    (line,) = [row for row in table if row["id"] == stopped.id]
    assert (line["status"], line["metric"], line["pairs"], line["stages_ran"], line["seed"]) == (
        "stopped", "0.25", "12", "student/student", "7",
    )  # fmt: skip
    assert line["reason"] == "by the scheduler, after step 5"
    assert content.best != stopped.id


def test_no_trial_is_best_when_none_has_finished(make_plan: MakePlan):
    failed = [record(0.3, 0.0, 0, None)]
    content = results.content_of(make_plan(KEYS), failed, space_yaml="")
    assert content.best is None
    assert content.best_yaml == ""


def test_the_recipe_of_the_best_trial_is_whole(make_plan: MakePlan):
    plan = make_plan(KEYS)
    text = results.content_of(plan, RECORDS, space_yaml="").best_yaml
    recipe = config.build(plan.job.job.recipe_type, config.read_yaml(text, "best.yaml"))
    assert recipe == plan.recipe(Trial({THRESHOLD: 0.3, ALPHA: 0.3}, 1))


def test_scores_of_every_job_are_found_with_their_intervals():
    zero_shot = {"accuracy": 0.5, "interval": [0.4, 0.6], "num_clips": 40}
    hits = {"R@10": 0.7, "R@10_interval": [0.6, 0.8], "num_queries": 9}
    tagging = {"mAP": 0.1, "mAP_interval": [0.0, 0.2], "OmAP": 0.3, "OmAP_interval": [0.2, 0.4], "num_clips": 5}
    pooled = {"accuracy": 0.9, "interval": [0.8, 1.0], "num_clips": 60}
    evaluation = {
        "student": {"zero_shot": {"esc50": zero_shot}, "retrieval": {"clotho": {"text_to_audio": hits}}},
        "SPA": {"tagging": {"fold5": tagging}},
        "cscm": {"classification": {"pooled": pooled, "by_fold": [{}, {}]}},
    }
    found = results.test_scores({"evaluation": evaluation})
    assert [(score.test_set, score.model, score.metric, score.value, score.interval) for score in found] == [
        ("esc50", "student", "zero-shot accuracy", 0.5, (0.4, 0.6)),
        ("clotho", "student", "text-to-audio R@10", 0.7, (0.6, 0.8)),
        ("fold5", "SPA", "mAP", 0.1, (0.0, 0.2)),
        ("fold5", "SPA", "OmAP", 0.3, (0.2, 0.4)),
        ("2 test folds", "cscm", "accuracy", 0.9, (0.8, 1.0)),
    ]
