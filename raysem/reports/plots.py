"""The plots of a curation: similarities, Improvement-Sets, training curves, confusions."""

# Shapes: K classes.

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from raysem.reports.content import ImprovementSetStatistics, SimilarityStatistics
from raysem.reports.plot_style import MARK, MUTED, PAPER, SERIES, Plot, new_axes, series_style

_MAX_LABELLED_CLASSES = 80


def similarity_histogram(statistics: SimilarityStatistics) -> Plot:
    """Counts of cosines (logarithmic), with each threshold in use marked."""
    edges, counts = np.asarray(statistics.bin_edges), np.asarray(statistics.bin_counts)
    if len(edges) != len(counts) + 1:
        raise ValueError(f"a histogram of {len(counts)} bins has {len(counts) + 1} edges, got {len(edges)}")
    marks = _marks(statistics)
    with new_axes() as (axes, done):
        lowest = min(marks, default=np.inf)
        kept = edges[:-1] >= lowest - 1e-9
        for chosen, alpha in ((~kept, 0.35), (kept, 0.9)):
            axes.bar(
                edges[:-1][chosen], counts[chosen], np.diff(edges)[chosen], align="edge", color=SERIES[0], alpha=alpha
            )
        axes.set(xlabel="cosine similarity", ylabel="pairs", xlim=_occupied(edges, counts, marks))
        if counts.max(initial=0) > 50:
            _logarithmic_counts(axes)
        _draw_marks(axes, marks)
        svg = done()
    named = _named_marks(marks)
    return Plot(
        "Similarity of all pairs",
        svg,
        f"Histogram of {int(counts.sum()):,} cosine similarities from {edges[0]:.2f} to {edges[-1]:.2f}; {named}.",
        f"{named[0].upper()}{named[1:]}. Full bars are kept by the lowest threshold in use."
        + ("" if statistics.floor is None else f" Pairs below {statistics.floor:.2f} are not stored."),
    )


def kept_against_threshold(statistics: SimilarityStatistics) -> Plot:
    """Share of pairs and of clips that each threshold keeps."""
    thresholds = np.asarray(statistics.sweep_thresholds)
    pairs = np.asarray(statistics.kept_pairs) / max(statistics.num_pairs, 1)
    clips = np.asarray(statistics.kept_clips) / max(statistics.num_clips, 1)
    marks = _marks(statistics)
    with new_axes() as (axes, done):
        for index, (name, share) in enumerate((("clips with a caption", clips), ("pairs", pairs))):
            shown = share > 0
            axes.plot(thresholds[shown], share[shown], label=name, **series_style(index))
        axes.set(xlabel="threshold", ylabel="share kept", yscale="log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _draw_marks(axes, marks)
        axes.legend(loc="lower left")
        svg = done()
    return Plot(
        "Kept against threshold",
        svg,
        "Share of clips and of pairs kept, falling as the threshold rises: "
        + _spoken_curve(thresholds, clips, "of the clips"),
        f"Of {statistics.num_clips:,} clips and {statistics.num_pairs:,} pairs of a clip and a caption.",
    )


def precision_against_threshold(statistics: SimilarityStatistics) -> Plot | None:
    """Share of kept pairs that the hidden labels call right; None when no labels are known."""
    if statistics.precision is None or all(value is None for value in statistics.precision):
        return None
    points = [(t, p) for t, p in zip(statistics.sweep_thresholds, statistics.precision, strict=True) if p is not None]
    thresholds, precision = (np.array(values) for values in zip(*points, strict=True))
    with new_axes() as (axes, done):
        axes.plot(thresholds, precision, color=SERIES[0], marker="o" if len(thresholds) <= 30 else "", markersize=4)
        axes.set(xlabel="threshold", ylabel="precision", ylim=(0, 1.03))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _draw_marks(axes, _marks(statistics))
        svg = done()
    return Plot(
        "Precision against threshold",
        svg,
        "Precision of the kept pairs: " + _spoken_curve(thresholds, precision, "right"),
        "Kept pairs whose caption fits the clip's label. Curation never saw the labels.",
    )


def captions_per_clip(improvement_set: ImprovementSetStatistics) -> Plot:
    """How many kept clips have how many captions."""
    return _occurrences(
        improvement_set.captions_per_clip,
        f"Captions per clip · {improvement_set.name}",
        ("captions of a clip", "clips"),
        improvement_set.captions_per_clip_skewness,
    )


def clips_per_caption(improvement_set: ImprovementSetStatistics) -> Plot:
    """How many captions are on how many clips; the far right are hubs."""
    return _occurrences(
        improvement_set.clips_per_caption,
        f"Clips per caption · {improvement_set.name}",
        ("clips of a caption", "captions"),
        improvement_set.clips_per_caption_skewness,
    )


def hub_share(improvement_sets: Sequence[ImprovementSetStatistics]) -> Plot | None:
    """Share of the pairs that the most frequent captions own: a hubless set is the diagonal, a hub a steep start."""
    shown = [kept for kept in improvement_sets if kept.clips_per_caption]
    if not shown:
        return None
    spoken = []
    with new_axes() as (axes, done):
        for index, kept in enumerate(shown):
            sizes = np.repeat(list(kept.clips_per_caption), list(kept.clips_per_caption.values()))
            sizes = np.sort(sizes[sizes > 0])[::-1]
            share = np.cumsum(sizes) / sizes.sum()
            rank = np.arange(1, len(sizes) + 1) / len(sizes)
            keep = np.unique(np.geomspace(1, len(sizes), 150).astype(int)) - 1  # enough points for a smooth line
            axes.plot([0, *rank[keep]], [0, *share[keep]], label=kept.name, **series_style(index))
            tenth = share[max(len(sizes) // 10, 1) - 1]
            spoken.append(f"{kept.name}: the most frequent tenth of the captions own {100 * tenth:.0f} % of the pairs")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.set(xlabel="captions, most frequent first", ylabel="share of pairs", xlim=(0, 1), ylim=(0, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if len(shown) > 1:
            axes.legend(loc="lower right")
        svg = done()
    return Plot("Hubness", svg, "; ".join(spoken) + ".", "; ".join(spoken) + ". Dotted: no hubs.")


def curves(rows_by_model: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[Plot], list[Plot]]:
    """One plot for each number of the metrics files: (losses, held-out metrics and the learning rate; the rest).

    Rows of the kind `held_out` are told apart from those of the kind `train` though names may be the same. Of
    the rest those that never change are not drawn, and neither are positions (`epoch`, `seconds`).
    """
    return _curves({model: [rows] for model, rows in rows_by_model.items()})


def curves_of_folds(
    rows_by_model: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]],
) -> tuple[list[Plot], list[Plot]]:
    """As `curves`, with a thin line for each fold, those of one model alike.

    Not their mean: folds of other sizes report at other steps.
    """
    return _curves({model: list(by_fold.values()) for model, by_fold in rows_by_model.items()})


def _curves(
    runs_by_model: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
) -> tuple[list[Plot], list[Plot]]:
    named = {model: [[_named_row(row) for row in rows] for rows in runs] for model, runs in runs_by_model.items()}
    names = dict.fromkeys(name for runs in named.values() for rows in runs for row in rows for name in row)
    drawn = [
        (_curve_kind(name), plot)
        for name in sorted(names, key=lambda name: (_curve_kind(name), name))
        if not _is_position(name) and (plot := _curve(name, named)) is not None
    ]
    return [plot for kind, plot in drawn if kind < 3], [plot for kind, plot in drawn if kind == 3]


def confusion(labels: Sequence[str], counts_KK: Sequence[Sequence[float]], *, title: str) -> Plot:
    """Rows are true classes, columns what they were called; a cell's strength is its share of the row.

    Drawn by hand: a cell tells its numbers when pointed at, and empty cells cost no bytes.
    """
    counts = np.asarray(counts_KK, dtype=float)
    if counts.shape != (len(labels),) * 2:
        raise ValueError(f"confusion of {len(labels)} labels must be square, got {counts.shape}")
    size, labelled = len(labels), len(labels) <= _MAX_LABELLED_CLASSES
    cell = 13 if size > 24 else 19 if size > 12 else 30
    labels = [spoken_label(label) for label in labels]
    short = [label if len(label) <= 22 else f"{label[:21]}…" for label in labels]
    margin = 6 + 5.7 * max(map(len, short)) if labelled else 8
    side = margin + size * cell + 2
    parts = [f'<rect class="cm-frame" x="{margin:g}" y="{margin:g}" width="{size * cell}" height="{size * cell}"/>']
    for row, column in zip(*np.nonzero(counts), strict=True):
        share = counts[row, column] / counts[row].sum()
        said = f"{labels[row]} → {labels[column]}: {counts[row, column]:g} of {counts[row].sum():g}"
        parts.append(
            f'<rect class="{"cm-hit" if row == column else "cm-miss"}" x="{margin + column * cell:g}" '
            f'y="{margin + row * cell:g}" width="{cell}" height="{cell}" fill-opacity="{0.12 + 0.88 * share:.2f}">'
            f"<title>{html.escape(said)}</title></rect>"
        )
    for index, label in enumerate(short if labelled else ()):
        middle = margin + (index + 0.5) * cell
        parts.append(f'<text x="{margin - 5:g}" y="{middle + 3.5:g}" text-anchor="end">{html.escape(label)}</text>')
        parts.append(
            f'<text transform="translate({middle + 3.5:g} {margin - 5:g}) rotate(-90)">{html.escape(label)}</text>'
        )
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    alt = f"{title}: confusion of {size} classes, {100 * accuracy:.1f} % on the diagonal. Rows are the true classes."
    svg = (
        f'<svg class="confusion" viewBox="0 0 {side:g} {side:g}" width="{side:g}" height="{side:g}">'
        f"{''.join(parts)}</svg>"
    )
    return Plot(title, svg, alt)


def spoken_label(label: str) -> str:
    """`sea_waves` as "sea waves"; the case stays."""
    return label.replace("_", " ")


def interval_bar(
    value: float, interval: Sequence[float], domain: tuple[float, float], *, zero: bool = False, tone: str = "neutral"
) -> str:
    """A dot and its whiskers on a scale from `domain[0]` to `domain[1]`, for a table cell."""
    span = max(domain[1] - domain[0], 1e-9)

    def at(number: float) -> float:
        return round(4 + 92 * min(max((number - domain[0]) / span, 0), 1), 2)

    line = f'<line class="ib-zero" x1="{at(0)}" x2="{at(0)}" y1="0" y2="20"/>' if zero else ""
    return (
        f'<svg class="interval {html.escape(tone)}" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="ib-axis" x1="4" x2="96" y1="10" y2="10"/>{line}'
        f'<line class="ib-range" x1="{at(interval[0])}" x2="{at(interval[1])}" y1="10" y2="10"/>'
        f'<line class="ib-dot" x1="{at(value)}" x2="{at(value)}" y1="10" y2="10"/></svg>'
    )


def _marks(statistics: SimilarityStatistics) -> dict[float, list[str]]:
    marks: dict[float, list[str]] = {}
    for name, threshold in statistics.thresholds.items():
        marks.setdefault(round(float(threshold), 6), []).append(name)
    return dict(sorted(marks.items()))


def _draw_marks(axes: Axes, marks: Mapping[float, Sequence[str]]) -> None:
    """Thresholds as vertical lines. Their numbers stand above the plot, one row lower for each that would overlap."""
    low, high = axes.get_xlim()
    rows_end: list[float] = []
    for threshold in marks:
        at = (threshold - low) / max(high - low, 1e-9)
        row = next((index for index, end in enumerate(rows_end) if at > end), len(rows_end))
        rows_end[row : row + 1] = [at + 0.1]
        axes.axvline(threshold, color=MARK, linewidth=1.5, linestyle=(0, (4, 2)))
        axes.annotate(
            f"{threshold:.4g}",
            (threshold, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2 - 12 * row),
            textcoords="offset points",
            color=MARK,
            va="top",
        )


def _logarithmic_counts(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter(FuncFormatter(_short_count))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _short_count(value: float, _: int) -> str:
    """12000 as "12k"; nothing below 1, where there are no counts."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}" if value >= 1 else ""


def _named_marks(marks: Mapping[float, Sequence[str]]) -> str:
    if not marks:
        return "no threshold is in use"
    return "thresholds: " + ", ".join(f"{threshold:.4g} ({', '.join(names)})" for threshold, names in marks.items())


def _occupied(edges: np.ndarray, counts: np.ndarray, marks: Mapping[float, Sequence[str]]) -> tuple[float, float]:
    occupied = np.flatnonzero(counts)
    if not len(occupied):
        return float(edges[0]), float(edges[-1])
    low, high = [edges[occupied[0]], *marks], [edges[occupied[-1] + 1], *marks]
    margin = 0.02 * (max(high) - min(low))
    return float(min(low) - margin), float(max(high) + margin)


def _occurrences(occurrences: Mapping[int, int], title: str, axis: tuple[str, str], skewness: float | None) -> Plot:
    values = np.array(sorted(occurrences), dtype=int)
    numbers = np.array([occurrences[value] for value in values])
    total = int(numbers.sum()) if len(numbers) else 0
    largest = int(values.max()) if len(values) else 0
    with new_axes() as (axes, done):
        if largest <= 30:
            axes.bar(values, numbers, 0.8, color=SERIES[0], alpha=0.9)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            edges = np.unique(np.round(np.geomspace(1, largest + 1, 25)).astype(int))
            binned, _ = np.histogram(values, bins=edges, weights=numbers)
            axes.bar(edges[:-1], binned, np.diff(edges), align="edge", color=SERIES[0], alpha=0.9, edgecolor=PAPER)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(_short_count))
            axes.xaxis.set_minor_formatter(NullFormatter())
        if numbers.max(initial=0) > 200:
            _logarithmic_counts(axes)
        axes.set(xlabel=axis[0], ylabel=axis[1])
        svg = done()
    mean = float((values * numbers).sum() / total) if total else 0.0
    caption = f"{total:,} {axis[1]}, mean {mean:.2f}, at most {largest:,}"
    caption += "." if skewness is None else f"; skewness {skewness:.2f}."
    return Plot(title, svg, f"Histogram of {axis[0]}: {caption}", caption)


def _named_row(row: Mapping[str, Any]) -> dict[str, Any]:
    held_out = row.get("kind") == "held_out"
    return {
        f"held_out {name.removeprefix('held_out_')}" if held_out and name != "step" else name: value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _curve(name: str, runs_by_model: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Plot | None:
    lines: dict[str, list[np.ndarray]] = {}
    for model, runs in runs_by_model.items():
        found = [
            [(row["step"], row[name]) for row in rows if "step" in row and _is_finite(row.get(name))] for rows in runs
        ]
        if any(found):
            lines[model] = [np.array(points, dtype=float) for points in found if points]
    values = {value for runs in lines.values() for points in runs for value in points[:, 1]}
    if not lines or (_curve_kind(name) == 3 and len(values) == 1):
        return None
    ends = []
    with new_axes() as (axes, done):
        for index, (model, found_lines) in enumerate(lines.items()):
            thin = {"linewidth": 1.1, "alpha": 0.75} if len(found_lines) > 1 else {}
            for at, points in enumerate(found_lines):
                marker = "o" if len(points) <= 12 else ""
                label = None if at else model
                axes.plot(
                    points[:, 0], points[:, 1], label=label, marker=marker, markersize=3.5, **series_style(index) | thin
                )
            first, last = (np.mean([points[end, 1] for points in found_lines]) for end in (0, -1))
            over = f" (mean of {len(found_lines)} folds)" if len(found_lines) > 1 else ""
            ends.append(f"{model} from {first:.4g} to {last:.4g}{over}")
        axes.set(xlabel="step")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        if len(lines) > 1:
            axes.legend(loc="best", ncols=2 if len(lines) > 4 else 1)
        svg = done()
    title = name.replace("_", " ").replace("/", " · ")
    caption = "A line for each fold." if any(len(found_lines) > 1 for found_lines in lines.values()) else ""
    return Plot(f"{title[0].upper()}{title[1:]}", svg, f"{name} by step: {'; '.join(ends)}.", caption)


def _curve_kind(name: str) -> int:
    """0 a loss, 1 measured on held-out pairs, 2 the learning rate, 3 anything else."""
    if name.startswith("held_out"):
        return 1
    return 0 if "loss" in name else 2 if "learning_rate" in name else 3


def _is_position(name: str) -> bool:
    return name.rsplit("/", 1)[-1] in ("step", "epoch", "seconds", "time", "held_out pairs")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _spoken_curve(thresholds: np.ndarray, values: np.ndarray, what: str) -> str:
    picked = np.unique(np.linspace(0, len(thresholds) - 1, min(len(thresholds), 5)).round().astype(int))
    return "; ".join(f"at {thresholds[i]:.3g} {100 * values[i]:.3g} % {what}" for i in picked) + "."
