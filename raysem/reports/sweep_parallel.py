"""Parallel coordinates of a sweep: a line for each trial through all its keys to its metric, drawn by hand."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from raysem.reports.plot_style import Plot
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_labels import clipped, key_value_text, metric_text, setting_text, short_names, value_text
from raysem.reports.sweep_settings import finished_metric, known_metric, value_key

_TOP, _BOTTOM, _HEIGHT = 34.0, 304.0, 318.0
_RIGHT, _MIN_GAP, _WIDTH, _SIGN_WIDTH = 96.0, 175.0, 1060.0, 7.0


@dataclass(frozen=True)
class _Scale:
    """An axis: where a value stands on it, from 0 (bottom) to 1, and its ticks."""

    name: str
    ticks: Sequence[tuple[float, str]]
    places: Sequence[float | None]  # of each trial


def parallel_coordinates(report: SweepReport) -> Plot | None:
    """All trials over all keys, the better the stronger; None below two trials or without a metric.

    Trials that failed end at the last key. On a key whose values are not numbers, trials of one value are spread a
    little in the order of their metric, so that they can be told apart.
    """
    trials = sorted(report.trials, key=lambda trial: _goodness(report, trial))
    metrics = [known_metric(trial) for trial in trials]
    known = [value for value in metrics if value is not None]
    if len(trials) < 2 or not known or not report.keys:
        return None
    # What was stopped at its first step would press all others together: it ends at the edge.
    shown = [value for trial in trials if (value := finished_metric(trial)) is not None] or known
    names = short_names([key.name for key in report.keys])
    scales = [_key_scale(key, names[key.name], trials) for key in report.keys]
    low, high = min(shown), max(shown)
    places = [None if value is None else _between(min(max(value, low), high), low, high) for value in metrics]
    ticks = [
        (_between(value, low, high), metric_text(value, report.metric_is_share))
        for value in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        if low <= value <= high
    ]
    label = f"{report.metric}, %" if report.metric_is_share else report.metric
    scales.append(_Scale(label, ticks, places))
    left = 18 + _SIGN_WIDTH * max((len(_tick_text(label)) for _, label in scales[0].ticks), default=0)
    gap = max(_MIN_GAP, (_WIDTH - left - _RIGHT) / (len(scales) - 1))
    parts = [_line(report, trial, at, scales, (left, gap)) for at, trial in enumerate(trials)]
    parts += [_axis(scale, left + gap * at, is_first=at == 0) for at, scale in enumerate(scales)]
    width = left + _RIGHT + gap * (len(scales) - 1)
    failed = sum(trial.status == "failed" for trial in trials)
    stopped = sum(trial.status == "stopped" for trial in trials)
    best = report.best_trial
    spoken = "" if best is None else f" The best: {setting_text(report.keys, best.params)}."
    caption = [
        "A line for each trial, the stronger the better; point at one for its setting.",
        *(["Thick: the best trial."] if best is not None else []),
        *([f"Grey: the {stopped} stopped early, at the edge where out of range."] if stopped else []),
        *([f"Dotted, without a metric: the {failed} that failed."] if failed else []),
    ]
    return Plot(
        "All trials",
        f'<svg class="parallel" viewBox="0 0 {width:g} {_HEIGHT:g}" style="min-width: {0.8 * width:.0f}px">'
        f"{''.join(parts)}</svg>",
        f"{len(trials)} trials over {', '.join(names.values())} and {report.metric}, from "
        f"{metric_text(low, report.metric_is_share)} to {metric_text(high, report.metric_is_share)}.{spoken}",
        " ".join(caption),
    )


def _line(
    report: SweepReport, trial: SweepTrial, at: int, scales: Sequence[_Scale], across: tuple[float, float]
) -> str:
    left, gap = across
    points = [
        (left + gap * index, _height(place))
        for index, scale in enumerate(scales)
        if (place := scale.places[at]) is not None
    ]
    # Level where it meets an axis: of two lines that cross there, each keeps its direction.
    path = f"M{points[0][0]:g} {points[0][1]:.1f}" + "".join(
        f"C{x0 + 0.4 * gap:g} {y0:.1f} {x1 - 0.4 * gap:g} {y1:.1f} {x1:g} {y1:.1f}"
        for (x0, y0), (x1, y1) in pairwise(points)
    )
    number = metric_text(known_metric(trial), report.metric_is_share)
    seed = "" if trial.seed is None else f", seed {trial.seed}"
    said = f"{trial.id}: {setting_text(report.keys, trial.params)}{seed}: {number}" + (
        "" if trial.status == "finished" else f", {trial.status}"
    )
    place = scales[-1].places[at]
    good = 0.0 if place is None else place if report.direction == "max" else 1 - place
    kind = "pc-best" if trial.id == report.best else f"pc-{trial.status}"
    return f'<path class="{kind}" d="{path}" style="--share: {good:.3f}"><title>{html.escape(said)}</title></path>'


def _axis(scale: _Scale, x: float, *, is_first: bool) -> str:
    at = f'x="{2 if is_first else x:g}" y="{_TOP - 16:g}" text-anchor="{"start" if is_first else "middle"}"'
    side, anchor = (-1, "end") if is_first else (1, "start")  # where fewer lines pass
    ticks = "".join(
        f'<line x1="{x:g}" x2="{x + 4 * side:g}" y1="{_height(place):.1f}" y2="{_height(place):.1f}"/>'
        f'<text x="{x + 7 * side:g}" y="{_height(place) + 4:.1f}" text-anchor="{anchor}">'
        f"{html.escape(_tick_text(label))}</text>"
        for place, label in scale.ticks
    )
    return (
        f'<g class="pc-axis"><line x1="{x:g}" x2="{x:g}" y1="{_TOP:g}" y2="{_BOTTOM:g}"/>{ticks}'
        f'<text class="pc-name" {at}>{html.escape(clipped(scale.name))}'
        f"<title>{html.escape(scale.name)}</title></text></g>"
    )


def _key_scale(key: SweepKey, name: str, trials: Sequence[SweepTrial]) -> _Scale:
    values = [trial.params[key.name] for trial in trials]
    return _number_scale(key, name, values) if key.is_numeric else _listed_scale(key, name, values)


def _number_scale(key: SweepKey, name: str, values: Sequence[float]) -> _Scale:
    low, high = min(values), max(values)
    if not key.is_logarithmic:
        listed = key.is_discrete and len(key.values) <= 8
        at_ticks = key.values if listed else MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [(_between(at, low, high), value_text(float(at))) for at in at_ticks]
        return _Scale(name, _inside(ticks), [_between(value, low, high) for value in values])
    bounds = math.log(low), math.log(high)
    subs = (1.0,) if high / low > 300 else (1.0, 2.0, 5.0)
    log_ticks = [
        (_between(math.log(at), *bounds), value_text(float(at))) for at in LogLocator(subs=subs).tick_values(low, high)
    ]
    return _Scale(name, _inside(log_ticks), [_between(math.log(value), *bounds) for value in values])


def _listed_scale(key: SweepKey, name: str, values: Sequence[Any]) -> _Scale:
    listed = list({value_key(value): value for value in [*key.values, *values]}.values())
    rows = {value_key(value): index for index, value in enumerate(reversed(listed))}
    room = 1 / len(rows)
    members: dict[str, list[int]] = {}
    for at, value in enumerate(values):
        members.setdefault(value_key(value), []).append(at)
    places = [0.0] * len(values)
    for value, indices in members.items():
        offsets = np.linspace(-0.3, 0.3, len(indices)) if len(indices) > 1 else [0.0]
        for at, offset in zip(indices, offsets, strict=True):
            places[at] = room * (rows[value] + 0.5 + float(offset))
    ticks = [(room * (rows[value_key(value)] + 0.5), key_value_text(key, value)) for value in listed]
    return _Scale(name, ticks, places)


def _goodness(report: SweepReport, trial: SweepTrial) -> tuple[bool, bool, float]:
    """The worst first, so that the better lie over them; the best trial last of all."""
    value = known_metric(trial)
    signed = -math.inf if value is None else value if report.direction == "max" else -value
    return trial.id == report.best, trial.status == "finished", signed


def _between(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _tick_text(label: str) -> str:
    return clipped(label, 16)


def _inside(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    return [tick for tick in ticks if -1e-9 <= tick[0] <= 1 + 1e-9]


def _height(place: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * place
