"""The plots of a report on taggers: OmAP over its levels, and how far off the wrong tags are."""

# Shapes: L levels or distances, from 0.

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from raysem.reports.plot_style import MUTED, Plot, new_axes, series_style

_FORGIVEN = "level: wrong tags up to so many edges off are forgiven"


def omap_over_levels(results: Mapping[str, Mapping[str, Any]], *, set_name: str) -> Plot:
    """OmAP_l of each model, and of random scores on the same labels as a dashed line.

    Args:
        results: by model, `TaggingResult.to_json`.
    """
    floors: dict[tuple[int, int], np.ndarray] = {}  # one, where every model was scored on the same clips
    for result in results.values():
        floors.setdefault(
            (result["num_clips"], result["num_positives"]), np.asarray(result["random_floor"]["OmAP_by_level"])
        )
    with new_axes(6.2, 3.6) as (axes, done):
        for index, (model, result) in enumerate(results.items()):
            axes.plot(result["OmAP_by_level"], label=model, **series_style(index))
        for at, floor_L in enumerate(floors.values()):
            axes.plot(floor_L, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.4, label=None if at else "random scores")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set(xlabel=_FORGIVEN, ylabel="OmAP", ylim=(0, 1.03))
        _whole_levels(axes)
        axes.legend(loc="best", ncols=2 if len(results) > 4 else 1)
        svg = done()
    spoken = "; ".join(f"{model} {_spoken(result['OmAP_by_level'])}" for model, result in results.items())
    floor_L = next(iter(floors.values()))
    return Plot(
        f"OmAP over levels · {set_name}",
        svg,
        f"OmAP by level: {spoken}; random scores {_spoken(floor_L)}.",
        "Level 0 weighs every wrong tag by its distance (it is not mAP); the last level forgives all and is 100 % for "
        "any model. OmAP is the mean over the levels.",
    )


def gain_over_levels(results: Mapping[str, Mapping[str, Any]], baseline: str, *, set_name: str) -> Plot | None:
    """OmAP_l of each other model less that of the baseline, in points; None where there is no other."""
    base_L = np.asarray(results[baseline]["OmAP_by_level"])
    gains = {
        model: (index, 100 * (np.asarray(result["OmAP_by_level"]) - base_L))
        for index, (model, result) in enumerate(results.items())
        if model != baseline
    }
    if not gains:
        return None
    with new_axes(6.2, 3.6) as (axes, done):
        axes.axhline(0, color=MUTED, linewidth=1.2, linestyle=(0, (2, 3)))
        for model, (index, gain_L) in gains.items():
            axes.plot(gain_L, label=model, **series_style(index))  # the colours of the plot beside it
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
        )
        axes.set(xlabel=_FORGIVEN, ylabel="points of OmAP")
        _whole_levels(axes)
        axes.legend(loc="best", ncols=2 if len(gains) > 4 else 1)
        svg = done()
    best = {model: int(np.abs(gain_L).argmax()) for model, (_, gain_L) in gains.items()}
    spoken = "; ".join(
        f"{model} most at level {best[model]}, {gains[model][1][best[model]]:+.1f} points" for model in gains
    )
    return Plot(
        f"Difference from {baseline} by level · {set_name}",
        svg,
        f"OmAP less that of {baseline}, by level: {spoken}.",
        f"The line at 0 is {baseline}.",
    )


def wrong_tag_distances(results: Mapping[str, Mapping[str, Any]], *, set_name: str) -> Plot | None:
    """Share of each model's wrong tags that lie at most so many edges from a label; None where no tag is wrong."""
    counts = {model: np.asarray(result["false_positives_by_distance"]) for model, result in results.items()}
    if not any(counts_L.sum() for counts_L in counts.values()):
        return None
    spoken = []
    with new_axes(6.2, 3.6) as (axes, done):
        for index, (model, counts_L) in enumerate(counts.items()):
            if counts_L.sum():
                share_L = counts_L.cumsum() / counts_L.sum()
                axes.plot(share_L, label=model, drawstyle="steps-post", **series_style(index))
                median = int(np.searchsorted(share_L, 0.5))
                spoken.append(f"{model}: half within {median} edges, {100 * share_L[:3][-1]:.0f} % within 2")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set(xlabel="edges from the nearest label of the clip", ylabel="share of wrong tags", ylim=(0, 1.03))
        _whole_levels(axes)
        axes.legend(loc="lower right", ncols=2 if len(counts) > 4 else 1)
        svg = done()
    return Plot(
        f"How far off wrong tags are · {set_name}",
        svg,
        f"Share of wrong tags by distance: {'; '.join(spoken)}.",
        "A clip with r labels is given its r best-scored classes. The higher the line, the nearer the mistakes.",
    )


def move_bar(before: float, after: float, longest: float) -> str:
    """From a hollow dot to a full one on a scale from 0 to `longest` edges, for a table cell."""

    def at(distance: float) -> float:
        return round(4 + 92 * min(max(distance / max(longest, 1e-9), 0), 1), 2)

    tone = "better" if after < before else "worse"
    return (
        f'<svg class="interval move {html.escape(tone)}" viewBox="0 0 100 20" preserveAspectRatio="none" '
        f'aria-hidden="true"><line class="ib-axis" x1="4" x2="96" y1="10" y2="10"/>'
        f'<line class="ib-range" x1="{at(before)}" x2="{at(after)}" y1="10" y2="10"/>'
        f'<line class="mv-before" x1="{at(before)}" x2="{at(before)}" y1="10" y2="10"/>'
        f'<line class="ib-dot" x1="{at(after)}" x2="{at(after)}" y1="10" y2="10"/></svg>'
    )


def _whole_levels(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.01)


def _spoken(values_L: Any) -> str:
    values_L = np.asarray(values_L)
    picked = np.unique(np.linspace(0, len(values_L) - 1, min(len(values_L), 4)).round().astype(int))
    return ", ".join(f"{100 * values_L[level]:.1f} % at {level}" for level in picked)
