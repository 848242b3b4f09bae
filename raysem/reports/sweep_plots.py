"""The metric of a sweep against each of its keys."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from raysem.reports.plot_style import MARK, MUTED, SERIES, Plot, new_axes
from raysem.reports.sweep_axes import by_value, columns, key_axis, metric_axis, metric_label
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_labels import clipped, key_value_text, short_names, spread_text
from raysem.reports.sweep_settings import (
    SweepSetting,
    deviation,
    finished_metric,
    is_best,
    known_metric,
    settings_of,
    value_key,
    values_of,
)

_HOLLOW = "Hollow: stopped early, at what it had reached, at the edge where that is out of range."


def metric_against_key(report: SweepReport, key: SweepKey) -> Plot | None:
    """A faint dot for each finished trial and the means with their spread; None where no trial has a metric."""
    if not any(known_metric(trial) is not None for trial in report.trials):
        return None
    return _against_numbers(report, key) if key.is_numeric else _strips(report, key)


def _against_numbers(report: SweepReport, key: SweepKey) -> Plot:
    settings = settings_of(report)
    bounds = _metric_bounds(report)
    many = len(report.keys) > 1
    several_seeds = any(len(setting.trials) > 1 for setting in settings)
    with new_axes() as (axes, done):
        finished = _dots(report, key)
        faint = key.is_discrete or several_seeds
        alpha, size = (0.35, 4) if faint else (0.8, 5.5)
        axes.plot(*columns(finished), "o", color=SERIES[0], alpha=alpha, markersize=size, markeredgewidth=0)
        stopped = [(trial.params[key.name], _at_most(value, bounds)) for trial, value in _stopped(report)]
        axes.plot(*columns(stopped), "o", color=MUTED, alpha=0.6, markersize=4, markerfacecolor="none")
        if key.is_discrete:
            marks = [(value, *_mean_and_spread(values)) for value, values in by_value(finished)]
            spoken = "; ".join(
                f"{key_value_text(key, value)}: {spread_text(middle, spread, report.metric_is_share)}"
                for value, middle, spread in _picked(marks)
            )
        else:
            marks = [
                (setting.params[key.name], setting.mean, setting.deviation)
                for setting in settings
                if setting.mean is not None and several_seeds
            ]
            spoken = f"{len({value for value, _ in finished})} values"
        for value, middle, spread in marks:
            if spread:
                span = [middle - spread, middle + spread]
                axes.plot([value, value], span, color=SERIES[0], alpha=0.9, linewidth=1.6, solid_capstyle="round")
        style = "-" if key.is_discrete else "none"
        label = "mean" if many and key.is_discrete else None
        means = columns([mark[:2] for mark in marks])
        axes.plot(*means, marker="o", linestyle=style, linewidth=1.8, color=SERIES[0], markersize=5, label=label)
        if many and key.is_discrete:
            _best_at_each_value(axes, key, settings, report)
        _ring(axes, report, settings, lambda setting: setting.params[key.name])
        axes.set(xlabel=short_names([one.name for one in report.keys])[key.name], ylabel=metric_label(report))
        axes.set_ylim(bounds)
        key_axis(axes, key)
        metric_axis(axes.yaxis, report)
        if many and key.is_discrete:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        svg = done()
    return Plot(key.name, svg, f"{report.metric} against {key.name}: {spoken}.", _caption(report, key, several_seeds))


def _strips(report: SweepReport, key: SweepKey) -> Plot:
    """Lying: the texts of values need the width."""
    settings = settings_of(report)
    bounds = _metric_bounds(report)
    listed = values_of(report, key)
    place = {value_key(value): index for index, value in enumerate(listed)}
    finished = [(place[value_key(value)], metric) for value, metric in _dots(report, key)]
    with new_axes(5.4, 1.1 + 0.36 * max(len(listed), 3)) as (axes, done):
        spread_out = [(metric, row + 0.26 * _scatter(at)) for at, (row, metric) in enumerate(finished)]
        axes.plot(*columns(spread_out), "o", color=SERIES[0], alpha=0.4, markersize=4, markeredgewidth=0)
        stopped = [
            (_at_most(value, bounds), place[value_key(trial.params[key.name])] + 0.26 * _scatter(at))
            for at, (trial, value) in enumerate(_stopped(report))
        ]
        axes.plot(*columns(stopped), "o", color=MUTED, alpha=0.6, markersize=4, markerfacecolor="none")
        marks = [(row, *_mean_and_spread(values)) for row, values in by_value(finished)]
        for row, middle, spread in marks:
            if spread:
                span = [middle - spread, middle + spread]
                axes.plot(span, [row, row], color=SERIES[0], alpha=0.9, linewidth=1.6, solid_capstyle="round")
            axes.plot(middle, row, "o", color=SERIES[0], markersize=7)
        axes.set(xlabel=metric_label(report), xlim=bounds, ylim=(len(listed) - 0.5, -0.5))
        axes.set_yticks(range(len(listed)), [clipped(key_value_text(key, value)) for value in listed])
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        _ring(axes, report, settings, lambda setting: place[value_key(setting.params[key.name])], lying=True)
        metric_axis(axes.xaxis, report)
        svg = done()
    spoken = "; ".join(
        f"{key_value_text(key, listed[row])}: {spread_text(middle, spread, report.metric_is_share)}"
        for row, middle, spread in marks
    )
    several_seeds = any(len(setting.trials) > 1 for setting in settings)
    return Plot(key.name, svg, f"{report.metric} by {key.name}: {spoken}.", _caption(report, key, several_seeds))


def _best_at_each_value(axes: Axes, key: SweepKey, settings: Sequence[SweepSetting], report: SweepReport) -> None:
    best = max if report.direction == "max" else min
    means = [(setting.params[key.name], setting.mean) for setting in settings if setting.mean is not None]
    line = [(value, best(values)) for value, values in by_value(means)]
    axes.plot(*columns(line), color=SERIES[1], linestyle=(0, (5, 2)), linewidth=1.6, label="best setting")


def _ring(
    axes: Axes, report: SweepReport, settings: Sequence[SweepSetting], place: Any, *, lying: bool = False
) -> None:
    """Around the mean of the best setting."""
    for setting in settings:
        if setting.mean is not None and is_best(report, setting):
            at = (setting.mean, place(setting)) if lying else (place(setting), setting.mean)
            axes.plot(*at, "o", color=MARK, markersize=11, markerfacecolor="none", markeredgewidth=1.8, clip_on=False)


def _caption(report: SweepReport, key: SweepKey, several_seeds: bool) -> str:
    over = [*(["seeds"] if several_seeds else []), *(["the other keys"] if len(report.keys) > 1 else [])]
    said = []
    if key.is_discrete and over:
        said.append(f"A faint dot for each trial; mean ± sd over {' and '.join(over)}.")
    elif several_seeds:
        said.append("A faint dot for each seed; the mean ± sd of each setting.")
    else:
        said.append("A dot for each trial.")
    if report.best_trial is not None and finished_metric(report.best_trial) is not None:
        said.append("Ringed: the best setting.")
    if _stopped(report):
        said.append(_HOLLOW)
    return " ".join(said)


def _metric_bounds(report: SweepReport) -> tuple[float, float]:
    """Room for what finished: a trial that was stopped at its first step would press all others together."""
    finished = [value for trial in report.trials if (value := finished_metric(trial)) is not None]
    shown = finished or [value for _, value in _stopped(report)]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _dots(report: SweepReport, key: SweepKey) -> list[tuple[Any, float]]:
    return [(trial.params[key.name], value) for trial in report.trials if (value := finished_metric(trial)) is not None]


def _stopped(report: SweepReport) -> list[tuple[SweepTrial, float]]:
    return [
        (trial, value)
        for trial in report.trials
        if trial.status == "stopped" and (value := known_metric(trial)) is not None
    ]


def _at_most(value: float, bounds: tuple[float, float]) -> float:
    """Just inside of `bounds`."""
    inside = 0.03 * (bounds[1] - bounds[0])
    return min(max(value, bounds[0] + inside), bounds[1] - inside)


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    return mean(values), deviation(values)


def _picked(rows: Sequence[Any]) -> list[Any]:
    """At most five, spread evenly: who listens needs no more."""
    return [rows[at] for at in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 5)).round().astype(int))]


def _scatter(index: int) -> float:
    """From -1 to 1, near ones apart and the same each time: steps of the golden section."""
    return 2 * ((index * 0.6180339887498949) % 1) - 1
