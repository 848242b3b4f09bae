"""The axes of a sweep's plots: a key's, and the metric's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from raysem.reports.plot_style import GRID
from raysem.reports.sweep_content import SweepKey, SweepReport
from raysem.reports.sweep_labels import value_text


def metric_label(report: SweepReport) -> str:
    """The metric with its unit."""
    return f"{report.metric}, %" if report.metric_is_share else report.metric


def metric_axis(axis: Any, report: SweepReport) -> None:
    """The numbers of an `axis` of metrics, shares in %."""
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: _number_text(100 * value if report.metric_is_share else value))
    )


def log_ticks(axis: Any) -> None:
    """1, 2, 5 of each decade, or where there are many decades 1 alone. The scale is set, and what is shown drawn."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
    axis.set_minor_formatter(NullFormatter())


def key_axis(axes: Axes, key: SweepKey) -> None:
    """Logarithmic where the key is; ticks at its listed values where there is room for them."""
    if key.is_logarithmic:
        axes.set_xscale("log")
        log_ticks(axes.xaxis)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if key.is_discrete:
        places = np.sort(np.log(key.values) if key.is_logarithmic else np.array(key.values, dtype=float))
        if len(places) < 2 or np.diff(places).min() >= 0.09 * (places[-1] - places[0]):
            axes.set_xticks(list(key.values), [value_text(value) for value in key.values])
            axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(visible=True, axis="x", color=GRID, alpha=0.5)


def by_value(points: Sequence[tuple[Any, float]]) -> list[tuple[Any, list[float]]]:
    """The metrics at each value, by rising value."""
    found: dict[Any, list[float]] = {}
    for value, metric in points:
        found.setdefault(value, []).append(metric)
    return sorted(found.items())


def columns(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """The first and the second of each row, as `plot` wants them."""
    return [row[0] for row in rows], [row[1] for row in rows]


def _number_text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
