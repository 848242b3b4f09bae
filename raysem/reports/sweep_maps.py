"""Heat maps of a sweep: the metric over two of its keys, drawn by hand as a confusion is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import Any

from raysem.reports.plot_style import Plot
from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_labels import clipped, key_value_text, metric_text, short_names, spread_text
from raysem.reports.sweep_settings import deviation, finished_metric, value_key, values_of

_CELL_HEIGHT = 30
_ENLARGED = 1.2
_HALF_A_PAGE = 370
_SIGN_WIDTH = 6.1  # of the style sheet's 10.5 px
_NAME_SIGN_WIDTH = 7.2  # of the heavier one of a key's name


def heat_maps(report: SweepReport) -> list[Plot]:
    """A map for each pair of listed keys of which both have several values; empty where nothing finished."""
    if not any(finished_metric(trial) is not None for trial in report.trials):
        return []
    listed = [key for key in report.keys if key.is_discrete and len(values_of(report, key)) > 1]
    return [heat_map(report, first, second) for first, second in combinations(listed, 2)]


def heat_map(report: SweepReport, first: SweepKey, second: SweepKey) -> Plot:
    """The mean over seeds and all other keys. The key with more values lies along the map's width.

    A cell without a finished trial tells why it has no number: not run, stopped early, or failed.
    """
    across, down = (
        (first, second) if len(values_of(report, first)) >= len(values_of(report, second)) else (second, first)
    )
    columns, rows = values_of(report, across), values_of(report, down)
    if down.is_numeric:
        rows = rows[::-1]  # as on any axis, more is higher
    cells = {
        (at, left): _in_cell(report.trials, (down.name, row), (across.name, column))
        for at, row in enumerate(rows)
        for left, column in enumerate(columns)
    }
    means = {place: mean(values) for place, trials in cells.items() if (values := _finished(trials))}
    low, high = min(means.values(), default=0.0), max(means.values(), default=0.0)
    best, worst = (high, low) if report.direction == "max" else (low, high)
    names = short_names([key.name for key in report.keys])
    labels = [clipped(key_value_text(down, row)) for row in rows]
    heads = [clipped(key_value_text(across, column), 18) for column in columns]
    width = max(30.0, 12 + _SIGN_WIDTH * max(len(metric_text(value, report.metric_is_share)) for value in [low, high]))
    upright = max(map(len, heads)) * _SIGN_WIDTH > width - 4
    left_edge = 26 + _SIGN_WIDTH * max(map(len, labels))
    top_edge = 24 + (_SIGN_WIDTH * max(map(len, heads)) if upright else 12)
    # The name of the rows' key, upright beside them, may be longer than they are high.
    half_name = _NAME_SIGN_WIDTH * len(names[down.name]) / 2 + 4
    middle = max(top_edge + _CELL_HEIGHT * len(rows) / 2, half_name)
    full_width = left_edge + width * len(columns) + 2
    full_height = max(top_edge + _CELL_HEIGHT * len(rows) + 2, middle + half_name)
    parts = []
    for (at, left), trials in cells.items():
        place = (left_edge + width * left, top_edge + _CELL_HEIGHT * at, width)
        value = means.get((at, left))
        share = None if value is None else abs(value - worst) / (high - low) if best != worst else 0.5
        said = f"{names[down.name]} = {key_value_text(down, rows[at])}, {names[across.name]} = " + key_value_text(
            across, columns[left]
        )
        parts.append(_cell(place, share, trials, said, report, is_best=value is not None and value == best))
    frame = _Frame(left_edge, top_edge, width, middle)
    parts += _axis_texts(frame, labels, heads, names[down.name], names[across.name], upright=upright)
    unit = " %" if report.metric_is_share else ""
    spoken = f"{metric_text(worst, report.metric_is_share)} to {metric_text(best, report.metric_is_share)}{unit}"
    empty = len(cells) - len(means)
    return Plot(
        f"{names[across.name]} × {names[down.name]}",
        f'<svg class="heatmap{" wide" if full_width > _HALF_A_PAGE else ""}" viewBox="0 0 {full_width:g} '
        f'{full_height:g}" width="{_ENLARGED * full_width:.0f}" height="{_ENLARGED * full_height:.0f}">'
        f"{''.join(parts)}</svg>",
        f"{report.metric} over {across.name} and {down.name}: from {spoken}; {empty} of {len(cells)} cells are empty.",
        f"Mean {report.metric} of the finished trials{unit and ', in %'}; the stronger, the better ({spoken})."
        + _legend(cells.values()),
    )


@dataclass(frozen=True)
class _Frame:
    """Where the cells begin, and how wide one is."""

    left_edge: float
    top_edge: float
    width: float
    middle: float
    """Of the rows, where the name of their key is written."""


def _axis_texts(
    frame: _Frame, labels: Sequence[str], heads: Sequence[str], down: str, across: str, *, upright: bool
) -> list[str]:
    """The values of the rows and columns, and the names of the two keys."""
    left_edge, top_edge, width = frame.left_edge, frame.top_edge, frame.width
    parts = []
    for at, label in enumerate(labels):
        y = top_edge + _CELL_HEIGHT * (at + 0.5) + 3.5
        parts.append(f'<text x="{left_edge - 6:g}" y="{y:g}" text-anchor="end">{html.escape(label)}</text>')
    for left, head in enumerate(heads):
        x = left_edge + width * (left + 0.5)
        place_of_head = (
            f'transform="translate({x + 3.5:g} {top_edge - 6:g}) rotate(-90)"'
            if upright
            else f'x="{x:g}" y="{top_edge - 6:g}" text-anchor="middle"'
        )
        parts.append(f"<text {place_of_head}>{html.escape(head)}</text>")
    middle = left_edge + width * len(heads) / 2
    parts.append(f'<text class="hm-name" x="{middle:g}" y="11" text-anchor="middle">{html.escape(across)}</text>')
    parts.append(
        f'<text class="hm-name" text-anchor="middle" transform="translate(11 {frame.middle:g}) rotate(-90)">'
        f"{html.escape(down)}</text>"
    )
    return parts


def _cell(
    place: tuple[float, float, float],
    share: float | None,
    trials: Sequence[SweepTrial],
    said: str,
    report: SweepReport,
    *,
    is_best: bool,
) -> str:
    x, y, width = place
    middle = f'x="{x + width / 2:g}" y="{y + _CELL_HEIGHT / 2 + 3.5:g}" text-anchor="middle"'
    box = f'x="{x + 1:g}" y="{y + 1:g}" width="{width - 2:g}" height="{_CELL_HEIGHT - 2}" rx="3"'
    if share is None:
        why = _why_empty(trials)
        sign = {"failed": "×", "stopped early": "○"}.get(why, "")
        text = f'<text class="hm-sign" {middle}>{sign}</text>' if sign else ""
        return f'<g><rect class="hm-empty" {box}/>{text}<title>{html.escape(f"{said}: {why}")}</title></g>'
    values = _finished(trials)
    number = metric_text(mean(values), report.metric_is_share)
    trial_word = "trial" if len(values) == 1 else "trials"
    title = (
        f"{said}: {spread_text(mean(values), deviation(values), report.metric_is_share)}, {len(values)} {trial_word}"
    )
    return (
        f'<g><rect class="hm-cell{" hm-best" if is_best else ""}" {box} style="--share: {share:.3f}"/>'
        f'<text class="hm-number" {middle}>{html.escape(number)}</text><title>{html.escape(title)}</title></g>'
    )


def _legend(cells: Any) -> str:
    reasons = {_why_empty(trials) for trials in cells if not _finished(trials)}
    signs = {"not run": "dashed: not run", "stopped early": "○: stopped early", "failed": "×: failed"}
    said = [sign for reason, sign in signs.items() if reason in reasons]
    return f" {'; '.join(said).capitalize()}." if said else ""


def _why_empty(trials: Sequence[SweepTrial]) -> str:
    ends = {trial.status for trial in trials}
    return "not run" if not ends else "stopped early" if "stopped" in ends else "failed"


def _in_cell(trials: Sequence[SweepTrial], *places: tuple[str, Any]) -> list[SweepTrial]:
    return [trial for trial in trials if all(value_key(trial.params[name]) == value_key(at) for name, at in places)]


def _finished(trials: Sequence[SweepTrial]) -> list[float]:
    return [value for trial in trials if (value := finished_metric(trial)) is not None]
