"""The plots of a sweep: the metric against each key, what each threshold keeps, how the trials learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from raysem.reports.plot_style import GRID, MARK, MUTED, SERIES, Plot, new_axes, series_style
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_labels import clipped, key_value_text, metric_text, short_names, spread_text, value_text
from raysem.reports.sweep_settings import (
    SweepSetting,
    deviation,
    finished_metric,
    known_metric,
    setting_key,
    settings_of,
    value_key,
)

_HOLLOW = "Hollow: stopped early, at what it had reached, at the edge where that is out of range."
_FACTS = {  # by the name in a trial's facts: title, label of the axis, whether it counts and is drawn on a log axis
    "pairs": ("Curated pairs", "pairs", True),
    "clips": ("Curated clips", "clips", True),
    "mean_similarity": ("Mean similarity of the curated pairs", "mean similarity", False),
    "precision": ("Precision of the curated pairs", "precision", False),
}


def metric_against_key(report: SweepReport, key: SweepKey) -> Plot | None:
    """A faint dot for each finished trial and the means with their spread; None where no trial has a metric."""
    if not any(known_metric(trial) is not None for trial in report.trials):
        return None
    return _against_numbers(report, key) if key.is_numeric else _strips(report, key)


def curated_against_threshold(report: SweepReport) -> list[Plot]:
    """What each threshold kept: a plot for each threshold that is swept and each number that is known of the set.

    The curated set may depend on other keys, such as the strategy: each of their settings has its own line. Keys
    that change nothing about the set (a loss's weight, and seeds) make none.
    """
    plots = []
    for key in report.keys:
        if key.name.rsplit(".", 1)[-1].endswith("threshold") and key.is_numeric:
            plots += [plot for fact in _FACTS if (plot := _curated(report, key, fact)) is not None]
    return plots


def learning_curves(report: SweepReport) -> Plot | None:
    """The metric of every trial by step; None unless some trial reported twice."""
    curves = {trial.id: curve for trial in report.trials if len(curve := _points(trial)) > 0}
    if not any(len(curve) > 1 for curve in curves.values()):
        return None
    shown = [trial for trial in report.trials if trial.id in curves]
    faint = 0.75 if len(shown) <= 12 else 0.4
    with new_axes(9.6, 3.7) as (axes, done):
        # The finished over the stopped, and the best over all.
        for trial in sorted(shown, key=lambda trial: (trial.id == report.best, trial.status == "finished")):
            points = curves[trial.id]
            colour, width, alpha = (
                (MARK, 2.4, 1.0)
                if trial.id == report.best
                else (SERIES[0], 1.3, faint)
                if trial.status == "finished"
                else (MUTED, 1.1, faint)
            )
            axes.plot(points[:, 0], points[:, 1], color=colour, linewidth=width, alpha=alpha)
            if trial.status != "finished":
                face = {"markerfacecolor": "none"} if trial.status == "stopped" else {}
                marker = "o" if trial.status == "stopped" else "x"
                axes.plot(*points[-1], marker=marker, markersize=4.5, color=colour, alpha=min(1.0, 2 * faint), **face)
        axes.set(xlabel="step", ylabel=_metric_label(report))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        _metric_axis(axes.yaxis, report)
        svg = done()
    stops = Counter(int(curves[trial.id][-1, 0]) for trial in shown if trial.status == "stopped")
    ended = f"{sum(stops.values())} were stopped early" + (
        f", most at step {stops.most_common(1)[0][0]:,}" if stops else ""
    )
    caption = f"{len(shown)} trials, {ended if stops else 'none stopped early'}."
    marks = [
        *(["Grey lines end in a ring where a trial was stopped."] if stops else []),
        *(["A cross is where one failed."] if any(trial.status == "failed" for trial in shown) else []),
        *(["In the strongest colour: the best trial."] if report.best in curves else []),
    ]
    return Plot("Learning curves", svg, f"{report.metric} by step of {caption}", " ".join([caption, *marks]))


def is_best(report: SweepReport, setting: SweepSetting) -> bool:
    """It is the setting of the best trial."""
    best = report.best_trial
    return best is not None and setting_key(best.params) == setting_key(setting.params)


def _against_numbers(report: SweepReport, key: SweepKey) -> Plot:
    settings = settings_of(report)
    bounds = _metric_bounds(report)
    many = len(report.keys) > 1
    several_seeds = any(len(setting.trials) > 1 for setting in settings)
    with new_axes() as (axes, done):
        finished = _dots(report, key)
        faint = key.is_discrete or several_seeds
        axes.plot(
            *_columns(finished), "o", color=SERIES[0], alpha=0.3 if faint else 0.75, markersize=4, markeredgewidth=0
        )
        stopped = [(trial.params[key.name], np.clip(value, *bounds)) for trial, value in _stopped(report)]
        axes.plot(*_columns(stopped), "o", color=MUTED, alpha=0.6, markersize=4, markerfacecolor="none", clip_on=False)
        if key.is_discrete:
            marks = [(value, *_mean_and_spread(values)) for value, values in _by_value(finished)]
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
                axes.plot([value, value], span, color=SERIES[0], alpha=0.45, linewidth=3, solid_capstyle="round")
        line = {"linewidth": 1.8} if key.is_discrete else {"linestyle": "none"}
        label = "mean" if many and key.is_discrete else None
        axes.plot(*_columns([mark[:2] for mark in marks]), "o", color=SERIES[0], markersize=5, label=label, **line)
        if many and key.is_discrete:
            _best_at_each_value(axes, key, settings, report)
        _ring(axes, report, settings, lambda setting: setting.params[key.name])
        axes.set(xlabel=short_names([one.name for one in report.keys])[key.name], ylabel=_metric_label(report))
        axes.set_ylim(bounds)
        _key_axis(axes, key)
        _metric_axis(axes.yaxis, report)
        if many and key.is_discrete:
            axes.legend(loc="best")
        svg = done()
    return Plot(key.name, svg, f"{report.metric} against {key.name}: {spoken}.", _caption(report, key, several_seeds))


def _strips(report: SweepReport, key: SweepKey) -> Plot:
    """Lying: the texts of values need the width."""
    settings = settings_of(report)
    bounds = _metric_bounds(report)
    listed = _values(report, key)
    place = {value_key(value): index for index, value in enumerate(listed)}
    finished = [(place[value_key(value)], metric) for value, metric in _dots(report, key)]
    with new_axes(5.4, 1.1 + 0.36 * max(len(listed), 3)) as (axes, done):
        spread_out = [(metric, row + 0.26 * _scatter(at)) for at, (row, metric) in enumerate(finished)]
        axes.plot(*_columns(spread_out), "o", color=SERIES[0], alpha=0.4, markersize=4, markeredgewidth=0)
        stopped = [
            (np.clip(value, *bounds), place[value_key(trial.params[key.name])] + 0.26 * _scatter(at))
            for at, (trial, value) in enumerate(_stopped(report))
        ]
        axes.plot(*_columns(stopped), "o", color=MUTED, alpha=0.6, markersize=4, markerfacecolor="none", clip_on=False)
        marks = [(row, *_mean_and_spread(values)) for row, values in _by_value(finished)]
        for row, middle, spread in marks:
            if spread:
                span = [middle - spread, middle + spread]
                axes.plot(span, [row, row], color=SERIES[0], alpha=0.45, linewidth=3, solid_capstyle="round")
            axes.plot(middle, row, "o", color=SERIES[0], markersize=7)
        axes.set(xlabel=_metric_label(report), xlim=bounds, ylim=(len(listed) - 0.5, -0.5))
        axes.set_yticks(range(len(listed)), [clipped(key_value_text(key, value)) for value in listed])
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        _ring(axes, report, settings, lambda setting: place[value_key(setting.params[key.name])], lying=True)
        _metric_axis(axes.xaxis, report)
        svg = done()
    spoken = "; ".join(
        f"{key_value_text(key, listed[row])}: {spread_text(middle, spread, report.metric_is_share)}"
        for row, middle, spread in marks
    )
    several_seeds = any(len(setting.trials) > 1 for setting in settings)
    return Plot(key.name, svg, f"{report.metric} by {key.name}: {spoken}.", _caption(report, key, several_seeds))


def _curated(report: SweepReport, key: SweepKey, fact: str) -> Plot | None:
    title, label, counts = _FACTS[fact]
    known = [trial for trial in report.trials if _number(trial.facts.get(fact)) is not None]
    if len({trial.params[key.name] for trial in known}) < 2:
        return None
    groups: dict[str, list[tuple[float, float]]] = {}
    others = _keys_of_the_set(report, key, known)
    names = short_names([one.name for one in report.keys])
    for trial in known:
        group = ", ".join(f"{names[one.name]} = {key_value_text(one, trial.params[one.name])}" for one in others)
        groups.setdefault(group, []).append((trial.params[key.name], float(trial.facts[fact])))
    spoken = []
    with new_axes() as (axes, done):
        for index, (group, points) in enumerate(groups.items()):
            line = [(value, mean(numbers)) for value, numbers in _by_value(points)]
            marker = "o" if len(line) <= 30 else ""
            axes.plot(*_columns(line), label=clipped(group, 30), marker=marker, markersize=4, **series_style(index))
            ends = " to ".join(f"{number:,.4g} at {value_text(value, 3)}" for value, number in (line[0], line[-1]))
            spoken.append(f"{group}: {ends}" if group else ends)
        axes.set(xlabel=names[key.name], ylabel=label)
        everything = [number for points in groups.values() for _, number in points]
        if counts and min(everything) > 0 and max(everything) >= 20 * min(everything):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(_count if counts else lambda number, _: f"{number:.3g}"))
        if report.best_trial is not None:
            axes.axvline(report.best_trial.params[key.name], color=MARK, linewidth=1.5, linestyle=(0, (4, 2)))
        _key_axis(axes, key)
        if len(groups) > 1:
            axes.legend(loc="best", ncols=2 if len(groups) > 5 else 1)
        svg = done()
    caption = "" if report.best_trial is None else "Dashed: the threshold of the best setting."
    return Plot(title, svg, f"{title} against {key.name}: {'; '.join(spoken)}.", caption)


def _keys_of_the_set(report: SweepReport, key: SweepKey, trials: Sequence[SweepTrial]) -> list[SweepKey]:
    """The listed keys beside `key` without which the curated sets of one threshold could not be told apart."""
    kept = [one for one in report.keys if one.name != key.name and one.is_discrete]
    if not key.is_discrete:
        # No threshold was drawn twice, so nothing can be told apart: those of the threshold's own section count.
        section = key.name.rpartition(".")[0]
        return [one for one in kept if one.name.rpartition(".")[0] == section]
    for one in list(kept):
        fewer = [other for other in kept if other is not one]
        found: dict[tuple[str, ...], set[str]] = {}
        for trial in trials:
            at = tuple(value_key(trial.params[other.name]) for other in [key, *fewer])
            found.setdefault(at, set()).add(value_key({fact: trial.facts.get(fact) for fact in _FACTS}))
        if all(len(sets) == 1 for sets in found.values()):
            kept = fewer
    return kept


def _best_at_each_value(axes: Axes, key: SweepKey, settings: Sequence[SweepSetting], report: SweepReport) -> None:
    best = max if report.direction == "max" else min
    means = [(setting.params[key.name], setting.mean) for setting in settings if setting.mean is not None]
    line = [(value, best(values)) for value, values in _by_value(means)]
    axes.plot(*_columns(line), color=SERIES[1], linestyle=(0, (5, 2)), linewidth=1.6, label="best setting")


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


def _metric_label(report: SweepReport) -> str:
    return f"{report.metric}, %" if report.metric_is_share else report.metric


def _metric_axis(axis: Any, report: SweepReport) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value if report.metric_is_share else value:.4g}"))


def _key_axis(axes: Axes, key: SweepKey) -> None:
    """Logarithmic where the key is; ticks at its listed values where there is room for them."""
    if key.is_logarithmic:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if key.is_discrete:
        places = np.sort(np.log(key.values) if key.is_logarithmic else np.array(key.values, dtype=float))
        if len(places) < 2 or np.diff(places).min() >= 0.09 * (places[-1] - places[0]):
            axes.set_xticks(list(key.values), [value_text(value) for value in key.values])
            axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(visible=True, axis="x", color=GRID, alpha=0.5)


def _dots(report: SweepReport, key: SweepKey) -> list[tuple[Any, float]]:
    return [(trial.params[key.name], value) for trial in report.trials if (value := finished_metric(trial)) is not None]


def _stopped(report: SweepReport) -> list[tuple[SweepTrial, float]]:
    return [
        (trial, value)
        for trial in report.trials
        if trial.status == "stopped" and (value := known_metric(trial)) is not None
    ]


def _by_value(points: Sequence[tuple[Any, float]]) -> list[tuple[Any, list[float]]]:
    """The metrics at each value, by rising value."""
    found: dict[Any, list[float]] = {}
    for value, metric in points:
        found.setdefault(value, []).append(metric)
    return sorted(found.items())


def _values(report: SweepReport, key: SweepKey) -> list[Any]:
    """Of a listed key, with what trials have beside them: a space that was widened leaves older trials."""
    found = {value_key(value): value for value in [*key.values, *(trial.params[key.name] for trial in report.trials)]}
    return list(found.values())


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    return mean(values), deviation(values)


def _columns(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def _picked(rows: Sequence[Any]) -> list[Any]:
    """At most five, spread evenly: who listens needs no more."""
    return [rows[at] for at in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 5)).round().astype(int))]


def _points(trial: SweepTrial) -> np.ndarray:
    found = [(one["step"], one["metric"]) for one in trial.curve if _number(one.get("metric")) is not None]
    return np.array(found, dtype=float).reshape(-1, 2)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and bool(np.isfinite(value)) else None


def _scatter(index: int) -> float:
    """From -1 to 1, near ones apart and the same each time: steps of the golden section."""
    return 2 * ((index * 0.6180339887498949) % 1) - 1


def _count(value: float, _: int) -> str:
    """12000 as "12k"."""
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"
