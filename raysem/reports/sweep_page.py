"""The report on a sweep as one file, in the style of every report: nothing is fetched."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from raysem import storage
from raysem.reports.cells import spoken_duration
from raysem.reports.content import Headline
from raysem.reports.layout import render_template
from raysem.reports.plots import interval_bar
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_curves import curated_against_threshold, learning_curves
from raysem.reports.sweep_labels import (
    breakable,
    key_value_text,
    metric_text,
    setting_text,
    short_names,
    spread_text,
    value_text,
)
from raysem.reports.sweep_maps import heat_maps
from raysem.reports.sweep_parallel import parallel_coordinates
from raysem.reports.sweep_plots import metric_against_key
from raysem.reports.sweep_settings import SweepSetting, finished_metric, is_best, known_metric, settings_of

log = logging.getLogger(__name__)

_ENDS = ("finished", "stopped", "failed")
_FACTS = {"pairs": "pairs", "clips": "clips", "mean_similarity": "mean similarity", "precision": "precision, %"}


def write_sweep_report(content: SweepReport, location: str) -> None:
    """Write `render_sweep_report(content)` to `location`: a path or URI that ends in .html."""
    page = render_sweep_report(content)
    storage.write_text(location, page)
    log.info("report of %.1f MiB at %s", len(page.encode()) / 2**20, location)


def render_sweep_report(content: SweepReport) -> str:
    """The page as text. Every text of `content` is escaped: values and reasons come from anywhere."""
    settings = settings_of(content)
    drawn = [metric_against_key(content, key) for key in content.keys]
    ended = {status: [_row(content, trial) for trial in content.trials if trial.status == status] for status in _ENDS}
    return render_template(
        "sweep_report.html",
        extra_styles=("sweep_report.css",),
        content=content,
        headlines=_headlines(content, settings),
        metric_title=content.metric[:1].upper() + content.metric[1:],
        unit=", %" if content.metric_is_share else "",
        key_heads={name: breakable(short) for name, short in short_names([key.name for key in content.keys]).items()},
        best=_best(content, settings),
        tests=_tests(content),
        settings=[_setting_row(content, setting, rank) for rank, setting in enumerate(settings, start=1)],
        trials=[_row(content, trial) for setting in settings for trial in setting.trials],
        several_seeds=any(len(setting.trials) > 1 for setting in settings),
        facts=[
            (name, label)
            for name, label in _FACTS.items()
            if any(trial.facts.get(name) is not None for trial in content.trials)
        ],
        against_keys=[plot for plot in drawn if plot is not None],
        heat_maps=heat_maps(content),
        curated=curated_against_threshold(content),
        parallel=parallel_coordinates(content),
        learning=learning_curves(content),
        stopped=ended["stopped"],
        failed=ended["failed"],
        reuse=_reuse(content.trials),
        space=[_key_row(key) for key in content.keys],
    )


def _headlines(content: SweepReport, settings: Sequence[SweepSetting]) -> list[Headline]:
    lines = []
    best = next((setting for setting in settings if is_best(content, setting)), None)
    if best is not None:
        unit = " %" if content.metric_is_share else ""
        detail = "; ".join(part for part in (setting_text(content.keys, best.params), _seeds(best)) if part)
        spread = spread_text(best.mean, best.deviation, content.metric_is_share)
        lines.append(Headline(f"{spread}{unit}", f"best {content.metric}", detail))
    if content.trials:
        ends = Counter(trial.status for trial in content.trials)
        detail = f"{ends['stopped']} stopped early, {ends['failed']} failed; {len(settings)} settings"
        lines.append(Headline(f"{ends['finished']} of {len(content.trials)}", "trials finished", detail))
        seconds = sum(trial.seconds for trial in content.trials)
        longest = max(trial.seconds for trial in content.trials)
        lines.append(
            Headline(spoken_duration(seconds), "in all trials together", f"the longest {spoken_duration(longest)}")
        )
    reuse = _reuse(content.trials)
    if reuse:
        total, reused = (sum(row[name] for row in reuse) for name in ("trials", "reused"))
        shared = [row["stage"] for row in reuse if row["reused"] and row["ran"] <= 1]
        detail = f"made once at most: {', '.join(shared)}" if shared else "see below for each stage"
        lines.append(Headline(f"{reused:,} of {total:,}", "stages reused, not run again", detail))
    return lines


def _seeds(setting: SweepSetting) -> str:
    """ "3 seeds"; or how many of them finished."""
    finished, total = len(setting.metrics), len(setting.trials)
    if finished < total:
        return f"{finished} of {total} seeds finished"
    return f"{total} seed{'s' if total != 1 else ''}"


def _best(content: SweepReport, settings: Sequence[SweepSetting]) -> dict[str, Any] | None:
    trial = content.best_trial
    if trial is None:
        return None
    setting = next(one for one in settings if is_best(content, one))
    finished = [(one, value) for one in setting.trials if (value := finished_metric(one)) is not None]
    return {
        "trial": trial,
        "is_first": setting is settings[0],
        "params": [(key.name, value_text(trial.params[key.name])) for key in content.keys],
        "metric": spread_text(setting.mean, setting.deviation, content.metric_is_share),
        "own": metric_text(known_metric(trial), content.metric_is_share),
        "seeds": _seeds(setting),
        "by_seed": [
            (one.seed, metric_text(value, content.metric_is_share))
            for one, value in finished
            if one.seed is not None and len(setting.trials) > 1
        ],
    }


def _tests(content: SweepReport) -> list[dict[str, Any]]:
    bounds = [bound for score in content.tests for bound in (score.interval or (score.value, score.value))]
    margin = 0.05 * (max(bounds) - min(bounds)) if bounds else 0.0
    return [
        {
            "score": score,
            "value": metric_text(score.value, score.is_share) + (" %" if score.is_share else ""),
            "interval": [metric_text(bound, score.is_share) for bound in score.interval or ()],
            "bar": Markup(interval_bar(score.value, score.interval, (min(bounds) - margin, max(bounds) + margin)))
            if score.interval
            else "",
        }
        for score in content.tests
    ]


def _setting_row(content: SweepReport, setting: SweepSetting, rank: int) -> dict[str, Any]:
    """The means over the seeds; of a setting that was stopped or failed what there is, told apart."""
    total = len(setting.trials)
    ran = [
        stage if times == total else f"{stage} ({times} of {total})" for stage, times in setting.ran.items() if times
    ]
    return {
        "rank": rank,
        "is_best": is_best(content, setting),
        "status": setting.status,
        "cells": _cells(content.keys, setting.params),
        "metric": spread_text(setting.mean, setting.deviation, content.metric_is_share),
        "sort": _sort_value(content, setting.mean),
        "seeds": len(setting.metrics),
        "of_seeds": total,
        "ids": [trial.id for trial in setting.trials],
        "ran": ran,
        "reused": [stage for stage, times in setting.ran.items() if not times],
        "facts": {name: _fact(name, setting.trials) for name in _FACTS},
        "seconds": setting.seconds,
    }


def _row(content: SweepReport, trial: SweepTrial) -> dict[str, Any]:
    return {
        "trial": trial,
        "setting": setting_text(content.keys, trial.params),
        "cells": _cells(content.keys, trial.params),
        "metric": metric_text(known_metric(trial), content.metric_is_share),
        "sort": _sort_value(content, known_metric(trial)),
        "last_step": trial.curve[-1]["step"] if trial.curve else None,
        "ran": [stage for stage, how in trial.stages.items() if how == "ran"],
        "reused": [stage for stage, how in trial.stages.items() if how != "ran"],
    }


def _cells(keys: Sequence[SweepKey], params: Any) -> list[dict[str, Any]]:
    return [
        {
            "text": key_value_text(key, params[key.name]),
            "sort": params[key.name] if key.is_numeric else key_value_text(key, params[key.name]),
            "is_numeric": key.is_numeric,
        }
        for key in keys
    ]


def _sort_value(content: SweepReport, metric: float | None) -> str:
    """For the page's script: what has no metric is the worst."""
    worst = "-Infinity" if content.direction == "max" else "Infinity"
    return worst if metric is None else repr(float(metric))


def _fact(name: str, trials: Sequence[SweepTrial]) -> dict[str, str]:
    """Of the set that a setting curated: its trials share it, or differ a little with their seeds."""
    values = [value for trial in trials if isinstance(value := trial.facts.get(name), int | float)]
    if not values:
        return {"text": "–", "sort": "-Infinity"}
    middle = sum(values) / len(values)
    text = (
        f"{middle:,.0f}"
        if name in ("pairs", "clips")
        else metric_text(middle, is_share=True)
        if name == "precision"
        else f"{middle:.3f}"
    )
    return {"text": text, "sort": repr(float(middle))}


def _reuse(trials: Sequence[SweepTrial]) -> list[dict[str, Any]]:
    """By stage, how many trials ran it and how many found it done."""
    names = dict.fromkeys(stage for trial in trials for stage in trial.stages)
    rows = []
    for stage in names:
        ends = Counter("ran" if trial.stages[stage] == "ran" else "reused" for trial in trials if stage in trial.stages)
        rows.append({"stage": stage, "ran": ends["ran"], "reused": ends["reused"], "trials": ends.total()})
    return rows


def _key_row(key: SweepKey) -> dict[str, str]:
    if key.is_discrete:
        values = ", ".join(value_text(value) for value in key.values)
    else:
        values = f"{value_text(key.low)} to {value_text(key.high)}"
    return {"name": key.name, "kind": key.kind, "listed": values}
