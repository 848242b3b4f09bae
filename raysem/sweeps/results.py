"""What came of a sweep: settings with their mean over seeds, the best of them, tables, the content of its report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from raysem import config, storage
from raysem.reports.content import StageLine
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial, TestScore
from raysem.reports.sweep_settings import SweepSetting, finished_metric, settings_of
from raysem.stages import Stage, done_record
from raysem.sweeps.plan import SweepPlan
from raysem.sweeps.space import KeySettings
from raysem.sweeps.trial import HELD_OUT, Trial, TrialRecord

NO_SHARES = ("held_out_loss", "pairs", "clips", "mean_similarity")
FACTS = ("pairs", "clips", "mean_similarity", "precision")


def content_of(plan: SweepPlan, records: Iterable[TrialRecord], *, space_yaml: str) -> SweepReport:
    """The report of the trials that have ended, its best trial known, nothing tested yet."""
    space = plan.space
    name = plan.job.job.name
    trials = [_shown(record) for record in in_order_of(plan, records) if record.status != "running"]
    content = SweepReport(
        title=space.title,
        subtitle=f"{name}, {len(space.swept)} keys, {len(space.seeds)} seed{'s' if len(space.seeds) > 1 else ''}",
        metric=space.metric if plan.only_selects else f"{HELD_OUT.replace('_', '-')} {space.metric}",
        metric_source="the stored pairs" if plan.only_selects else plan.job.source,
        direction=space.direction,
        metric_is_share=space.metric not in NO_SHARES,
        keys=[_key(name, key) for name, key in space.swept.items()],
        trials=trials,
        search=f"{space.search.kind}, seed {space.search.seed}" if space.search.trials else "grid",
        scheduler="" if space.scheduler.kind == "none" else space.scheduler.kind,
        space_yaml=space_yaml,
        recipe_yaml=config.to_yaml(plan.base_recipe),
    )
    best = best_trial(content, len(space.seeds))
    if best is None:
        return content
    return replace(content, best=best.id, best_yaml=config.to_yaml(plan.recipe(Trial(best.params, best.seed))))


def in_order_of(plan: SweepPlan, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """By the order of the space's values, then of the seeds."""

    def place(record: TrialRecord) -> tuple:
        places: list[Any] = []
        for name, key in plan.space.swept.items():
            value = record.params[name]
            places.append(key.values.index(value) if key.is_listed else value)
        return (*places, -1 if record.seed is None else record.seed)

    return sorted(records, key=place)


def best_setting(content: SweepReport, num_seeds: int) -> SweepSetting | None:
    """The setting with the best mean; one that lacks a seed only where none has them all."""
    finished = [setting for setting in settings_of(content) if setting.metrics]
    whole = [setting for setting in finished if len(setting.metrics) == num_seeds]
    return next(iter(whole or finished), None)


def best_trial(content: SweepReport, num_seeds: int) -> SweepTrial | None:
    """Of the best setting the seed with the best metric, which is a held-out one."""
    setting = best_setting(content, num_seeds)
    if setting is None:
        return None
    sign = 1 if content.direction == "max" else -1
    finished = [trial for trial in setting.trials if finished_metric(trial) is not None]
    return max(finished, key=lambda trial: sign * (finished_metric(trial) or 0.0))


def stage_lines(stages: Sequence[Stage], output: storage.Location) -> list[StageLine]:
    """The stages that all trials share."""
    lines = []
    for stage in stages:
        record = done_record(stage, output)
        if record is not None:
            lines.append(StageLine(stage.name, record["seconds"], "ran"))
    return lines


def trials_csv(content: SweepReport, seeds: Mapping[str, int]) -> str:
    """A line a trial. `seeds` has the recipe's own seed by trial, for those that sweep none."""
    names = [key.name for key in content.keys]
    facts = [name for name in FACTS if any(name in trial.facts for trial in content.trials)]
    head = ["id", *names, "seed", "status", "metric", "seconds", *facts, "stages_ran", "reason"]
    rows = []
    for trial in content.trials:
        ran = [name for name, how in trial.stages.items() if how == "ran"]
        rows.append(
            [
                trial.id,
                *(_cell(trial.params[name]) for name in names),
                seeds[trial.id],
                trial.status,
                _cell(trial.metric),
                trial.seconds,
                *(_cell(trial.facts.get(name)) for name in facts),
                " ".join(ran),
                trial.reason,
            ]
        )
    return _csv(head, rows)


def settings_csv(content: SweepReport) -> str:
    """A line a setting, the best mean first."""
    names = [key.name for key in content.keys]
    rows = [
        [
            *(_cell(setting.params[name]) for name in names),
            setting.status,
            len(setting.metrics),
            _cell(setting.mean),
            _cell(setting.deviation),
        ]
        for setting in settings_of(content)
    ]
    return _csv([*names, "status", "seeds", "mean", "sd"], rows)


def test_scores(summary: Mapping[str, Any]) -> list[TestScore]:
    """The scores with intervals in the `summary.json` of any job."""
    found = []
    for model, parts in summary["evaluation"].items():
        for set_name, result in parts.get("zero_shot", {}).items():
            found.append(_score(set_name, model, "zero-shot accuracy", result, "accuracy", "interval"))
        for set_name, result in parts.get("retrieval", {}).items():
            hits = result["text_to_audio"]
            interval = (hits["R@10_interval"][0], hits["R@10_interval"][1])
            detail = f"{hits['num_queries']} captions"
            found.append(TestScore(set_name, model, "text-to-audio R@10", hits["R@10"], interval, detail))
        for set_name, result in parts.get("tagging", {}).items():
            found += [_score(set_name, model, name, result, name, f"{name}_interval") for name in ("mAP", "OmAP")]
        if "classification" in parts:
            pooled = parts["classification"]["pooled"]
            folds = len(parts["classification"]["by_fold"])
            found.append(_score(f"{folds} test folds", model, "accuracy", pooled, "accuracy", "interval"))
    return found


def _score(set_name: str, model: str, metric: str, result: Mapping[str, Any], value: str, interval: str) -> TestScore:
    low, high = result[interval]
    return TestScore(set_name, model, metric, result[value], (low, high), f"{result['num_clips']} clips")


def _shown(record: TrialRecord) -> SweepTrial:
    content = asdict(record)
    del content["watched"], content["steps"]
    return SweepTrial(**content)


def _key(name: str, key: KeySettings) -> SweepKey:
    if key.is_listed:
        return SweepKey(name, key.form, values=list(key.values))
    low, high = key.range
    return SweepKey(name, key.form, low=low, high=high)


def _cell(value: Any) -> Any:
    """Numbers and words as they are, the rest as JSON."""
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
