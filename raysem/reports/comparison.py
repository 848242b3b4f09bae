"""Several runs in one table: mean and standard deviation over seeds, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysem import config
from raysem.errors import DataError
from raysem.evaluation.classification import POOLED
from raysem.metrics.bootstrap import Interval
from raysem.reports.compared_folds import check_same_folds, is_cross_validation, tested_folds
from raysem.reports.seed_intervals import ClipScores, over_seeds

# Keys of a recipe that do not make a run another experiment.
_NOT_AN_EXPERIMENT = ("seed", "output", "cluster", "report")
_RETRIEVAL = (("text_to_audio", "R@1"), ("text_to_audio", "R@10"), ("text_to_audio", "mAP@10"))
_TAGGING = ("OmAP", "mAP", "accuracy")
_MAX_SETTINGS_SHOWN = 6
_BASELINES = ("teacher", "control")


@dataclass
class _Experiment:
    """The runs of one recipe that differ in their seed only."""

    name: str
    recipe: Mapping[str, Any]
    summaries: list[Mapping[str, Any]] = field(default_factory=list)
    clip_scores: list[Mapping[str, ClipScores]] = field(default_factory=list)


def compare(
    summaries: Sequence[Mapping[str, Any]], clip_scores: Sequence[Mapping[str, ClipScores]] | None = None
) -> str:
    """A Markdown table: a row per model, a column per set; in %, mean ± sd over the runs that differ by seed only.

    The standard deviation is the sample's (n - 1), between seeds of training; the bootstrap interval of one run is
    over clips and is another thing. Differences are from the model of the same run, then averaged.

    Args:
        summaries: contents of summary.json; the parts `evaluation` and, where there, `differences`, `seed` and
            `recipe` (the resolved one: runs without it are taken for one experiment).
        clip_scores: for each summary its sets' scores clip by clip; with them, each experiment of at least two runs
            gets a table of its own for each set, with intervals over clips and seeds. A cross-validation has one set,
            the clips of all its tested folds.

    Raises:
        DataError: a run did not come that far, or two cross-validations tested other folds or clips.
    """
    if not summaries:
        raise DataError("compare: no summary given")
    for number, summary in enumerate(summaries, start=1):
        if not summary.get("evaluation"):
            raise DataError(f"compare: summary {number} has no evaluation; the run did not come that far")
    clip_scores = clip_scores or [{}] * len(summaries)
    check_same_folds(summaries, clip_scores)
    experiments = _experiments(summaries, clip_scores)
    columns = _columns(summaries)
    head = ["experiment"] * (len(experiments) > 1) + ["model", "runs", *(name for name, _ in columns)]
    rows = []
    for experiment in experiments:
        for model in dict.fromkeys(model for summary in experiment.summaries for model in summary["evaluation"]):
            runs = [summary for summary in experiment.summaries if model in summary["evaluation"]]
            cells = [_cell([read(summary, model) for summary in runs], name) for name, read in columns]
            rows.append([experiment.name] * (len(experiments) > 1) + [model, str(len(runs)), *cells])
    lines = [*_table(head, rows, num_texts=len(head) - len(columns) - 1), "", *_legend(experiments)]
    folds = next((tested_folds(summary) for summary in summaries if is_cross_validation(summary)), None)
    if folds is not None:
        lines += [
            "",
            f"{POOLED.capitalize()}: {folds}, each clip scored once; the mean over folds weighs each the same.",
        ]
    for experiment in experiments:
        lines += _interval_tables(experiment, named=len(experiments) > 1)
    return "\n".join(lines)


def _interval_tables(experiment: _Experiment, *, named: bool) -> list[str]:
    """A table for each set that all runs of an experiment have scored clip by clip."""
    if len(experiment.clip_scores) < 2:
        return []
    lines: list[str] = []
    for set_name in experiment.clip_scores[0]:
        if not all(set_name in scores for scores in experiment.clip_scores):
            continue
        title, baselines = set_name, list(_BASELINES)
        if is_cross_validation(experiment.summaries[0]):
            title, baselines = POOLED, _baselines(experiment.summaries, POOLED)
        rows = over_seeds(title, [scores[set_name] for scores in experiment.clip_scores], baselines=baselines)
        if not rows:
            continue
        baselines = list(rows[0].differences)
        head = ["model", f"{title}, accuracy", "each seed", *(f"against {baseline}" for baseline in baselines)]
        cells = [
            [row.model, _with_interval(row.accuracy), " ".join(f"{100 * value:.1f}" for value in row.by_seed)]
            + [_with_interval(row.differences[baseline], signed=True) for baseline in baselines]
            for row in rows
        ]
        where = f"{experiment.name}: " if named else ""
        level = f"{100 * rows[0].accuracy.level:g}"
        note = f"{where}mean [{level} % interval; clips and seeds drawn again, the seeds are few], in % and points:"
        lines += ["", note, "", *_table(head, cells, num_texts=1)]
    return lines


def _with_interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "–"
    sign = "+" if signed else ""
    low, mean, high = (f"{100 * value:{sign}.1f}" for value in (interval.low, interval.estimate, interval.high))
    return f"{mean} [{low}, {high}]"


def _experiments(
    summaries: Sequence[Mapping[str, Any]], clip_scores: Sequence[Mapping[str, ClipScores]]
) -> list[_Experiment]:
    by_digest: dict[str, _Experiment] = {}
    for summary, scores in zip(summaries, clip_scores, strict=True):
        recipe = {key: value for key, value in summary.get("recipe", {}).items() if key not in _NOT_AN_EXPERIMENT}
        digest = config.digest(recipe)
        if digest not in by_digest:
            by_digest[digest] = _Experiment(_letter(len(by_digest)), recipe)
        by_digest[digest].summaries.append(summary)
        by_digest[digest].clip_scores.append(scores)
    return list(by_digest.values())


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"{_letter(index // 26 - 1)}{_letter(index % 26)}"


Column = Callable[[Mapping[str, Any], str], Any]
"""A number of a model in a run's summary; None where the run has none."""


def _columns(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, Column]]:
    columns: list[tuple[str, Column]] = []
    for set_name in _sets(summaries, "tagging"):
        columns += [(f"{set_name}, {number}", _number("tagging", set_name, number)) for number in _TAGGING]
        columns.append((f"{set_name}, OmAP of random scores", _random_floor(set_name)))
        columns += [
            (f"{set_name}, {number}, against {baseline}", _difference(set_name, baseline, number))
            for number in _TAGGING[:2]
            for baseline in _baselines(summaries, set_name)
        ]
    for set_name in _sets(summaries, "zero_shot"):
        columns.append((f"{set_name}, accuracy", _number("zero_shot", set_name, "accuracy")))
        columns += [
            (f"{set_name}, against {baseline}", _difference(set_name, baseline))
            for baseline in _baselines(summaries, set_name)
        ]
    if any(is_cross_validation(summary) for summary in summaries):
        columns.append((f"{POOLED}, accuracy", _number("classification", "pooled", "accuracy")))
        columns += [
            (f"{POOLED}, against {baseline}", _difference(POOLED, baseline))
            for baseline in _baselines(summaries, POOLED)
        ]
        columns.append(("mean over folds", _number("classification", "mean")))
    for set_name in _sets(summaries, "retrieval"):
        columns += [
            (f"{set_name}, {direction.replace('_', ' ')} {number}", _number("retrieval", set_name, direction, number))
            for direction, number in _RETRIEVAL
        ]
    return columns


def _number(*keys: str) -> Column:
    """What stands under these keys of a model's evaluation."""

    def read(summary: Mapping[str, Any], model: str) -> Any:
        found = summary["evaluation"][model]
        for key in keys:
            found = found.get(key) if found else None
        return found

    return read


def _difference(set_name: str, baseline: str, metric: str | None = None) -> Column:
    def read(summary: Mapping[str, Any], model: str) -> float | None:
        rows = [
            row["difference"]
            for row in summary.get("differences", ())
            if (row["student"], row["baseline"], row["set"]) == (model, baseline, set_name)
            and metric in (None, row.get("metric"))
        ]
        return rows[0] if rows else None

    return read


def _random_floor(set_name: str) -> Column:
    def read(summary: Mapping[str, Any], model: str) -> float | None:
        result = summary["evaluation"][model].get("tagging", {}).get(set_name)
        return result["random_floor"]["OmAP"] if result else None

    return read


def _baselines(summaries: Sequence[Mapping[str, Any]], set_name: str) -> list[str]:
    rows = (row for summary in summaries for row in summary.get("differences", ()) if row["set"] == set_name)
    return list(dict.fromkeys(row["baseline"] for row in rows))


def _sets(summaries: Sequence[Mapping[str, Any]], part: str) -> list[str]:
    return list(
        dict.fromkeys(
            name for summary in summaries for parts in summary["evaluation"].values() for name in parts.get(part) or {}
        )
    )


def _cell(values: Sequence[float | None], column: str) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    mean = statistics.fmean(known)
    text = f"{mean:+.1f}" if ", against " in column else f"{mean:.1f}"
    text += f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return text if len(known) == len(values) else f"{text} (of {len(known)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_texts: int) -> list[str]:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    rule = [
        "-" * width if at < num_texts else "-" * (width - 1) + ":" for at, width in enumerate(max(w, 3) for w in widths)
    ]
    lines = [
        [
            cell.ljust(width) if at < num_texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in escaped
    ]
    return [f"| {' | '.join(row)} |" for row in [lines[0], rule, *lines[1:]]]


def _legend(experiments: Sequence[_Experiment]) -> list[str]:
    seeds = [str(s.get("recipe", {}).get("seed", s.get("seed", "?"))) for s in experiments[0].summaries]
    if len(experiments) == 1:
        return [f"In %, mean ± standard deviation over {len(seeds)} runs (seeds {', '.join(seeds)})."]
    lines = ["In %, mean ± standard deviation over the runs of one experiment, which differ by seed only.", ""]
    first = experiments[0]
    lines.append(f"- {first.name}: {len(first.summaries)} runs")
    for other in experiments[1:]:
        changed = config.differences(first.recipe, other.recipe)
        more = f"; and {len(changed) - _MAX_SETTINGS_SHOWN} more" if len(changed) > _MAX_SETTINGS_SHOWN else ""
        lines.append(
            f"- {other.name}: {len(other.summaries)} runs; from {first.name} on "
            f"{'; '.join(changed[:_MAX_SETTINGS_SHOWN])}{more}"
        )
    return lines
