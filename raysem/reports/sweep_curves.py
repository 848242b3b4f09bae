"""What the thresholds of a sweep curate, and how its trials learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raysem.reports.plot_style import MARK, MUTED, SERIES, Plot, new_axes, series_style
from raysem.reports.sweep_axes import by_value, columns, key_axis, log_ticks, metric_axis, metric_label
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_labels import clipped, key_value_text, short_names, value_text
from raysem.reports.sweep_settings import value_key

_MAX_NAMED_LINES = 12
_FACTS = {  # by the name in a trial's facts: title, label of the axis, whether it counts and is drawn on a log axis
    "pairs": ("Curated pairs", "pairs", True),
    "clips": ("Curated clips", "clips", True),
    "mean_similarity": ("Mean similarity of the curated pairs", "mean similarity", False),
    "precision": ("Precision of the curated pairs", "precision", False),
}


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
    with new_axes(12.5, 4.3) as (axes, done):
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
                marker, face = ("o", "none") if trial.status == "stopped" else ("x", colour)
                alpha = min(1.0, 2 * faint)
                axes.plot(*points[-1], marker, markersize=4.5, color=colour, markerfacecolor=face, alpha=alpha)
        axes.set(xlabel="step", ylabel=metric_label(report))
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
        metric_axis(axes.yaxis, report)
        svg = done()
    stops = Counter(int(curves[trial.id][-1, 0]) for trial in shown if trial.status == "stopped")
    ended = f"{sum(stops.values())} were stopped early" + (
        f", most at step {stops.most_common(1)[0][0]:,}" if stops else ""
    )
    caption = f"{len(shown)} trials, {ended if stops else 'none stopped early'}."
    marks = [
        *(["Grey lines end in a ring where a trial was stopped."] if stops else []),
        *(["A cross is where one failed."] if any(trial.status == "failed" for trial in shown) else []),
        *(["Thick: the best trial."] if report.best in curves else []),
    ]
    return Plot("Learning curves", svg, f"{report.metric} by step of {caption}", " ".join([caption, *marks]))


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
            line = [(value, mean(numbers)) for value, numbers in by_value(points)]
            marker = "o" if len(line) <= 30 else ""
            axes.plot(*columns(line), label=clipped(group, 30), marker=marker, markersize=4, **series_style(index))
            ends = " to ".join(f"{number:,.4g} at {value_text(value, 3)}" for value, number in (line[0], line[-1]))
            spoken.append(f"{group}: {ends}" if group else ends)
        axes.set(xlabel=names[key.name], ylabel=label)
        everything = [number for points in groups.values() for _, number in points]
        if counts and min(everything) > 0 and max(everything) >= 20 * min(everything):
            axes.set_yscale("log")
            log_ticks(axes.yaxis)
        axes.yaxis.set_major_formatter(FuncFormatter(_count if counts else lambda number, _: f"{number:.3g}"))
        if report.best_trial is not None:
            axes.axvline(report.best_trial.params[key.name], color=MARK, linewidth=1.3)
        key_axis(axes, key)
        if 1 < len(groups) <= _MAX_NAMED_LINES:
            axes.legend(loc="best", ncols=2 if len(groups) > 5 else 1)
        svg = done()
    caption = [
        *([f"A line for each setting of {', '.join(names[one.name] for one in others)}."] if others else []),
        *(["Upright: the threshold of the best setting."] if report.best_trial is not None else []),
    ]
    return Plot(title, svg, f"{title} against {key.name}: {'; '.join(spoken)}.", " ".join(caption))


def _keys_of_the_set(report: SweepReport, key: SweepKey, trials: Sequence[SweepTrial]) -> list[SweepKey]:
    """The listed keys beside `key` without which the curated sets of one threshold and seed could not be told apart."""
    kept = [one for one in report.keys if one.name != key.name and one.is_discrete]
    if not key.is_discrete:
        # No threshold was drawn twice, so nothing can be told apart: those of the threshold's own section count.
        section = key.name.rpartition(".")[0]
        return [one for one in kept if one.name.rpartition(".")[0] == section]
    for one in list(kept):
        fewer = [other for other in kept if other is not one]
        found: dict[tuple[str, ...], set[str]] = {}
        for trial in trials:
            at = (str(trial.seed), *(value_key(trial.params[other.name]) for other in [key, *fewer]))
            found.setdefault(at, set()).add(value_key({fact: trial.facts.get(fact) for fact in _FACTS}))
        if all(len(sets) == 1 for sets in found.values()):
            kept = fewer
    return kept


def _points(trial: SweepTrial) -> np.ndarray:
    found = [(one["step"], one["metric"]) for one in trial.curve if _number(one.get("metric")) is not None]
    return np.array(found, dtype=float).reshape(-1, 2)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and bool(np.isfinite(value)) else None


def _count(value: float, _: int) -> str:
    """12000 as "12k"."""
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"
