"""The report on taggers as one file, in the style of every report: nothing is fetched."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from raysem import storage
from raysem.reports import plots, tagging_plots
from raysem.reports.cells import difference_cell, percent
from raysem.reports.content import Headline
from raysem.reports.layout import render_template
from raysem.reports.player_budget import cards_in_turns
from raysem.reports.players import PlayerSettings
from raysem.reports.tagging_content import TaggingReport

log = logging.getLogger(__name__)

_METRICS = ("OmAP", "mAP")
_MAX_HEADLINES = 8


def write_tagging_report(content: TaggingReport, location: str, *, players: PlayerSettings | None = None) -> None:
    """Write `render(content)` to `location`: a path or URI that ends in .html."""
    page = render_tagging_report(content, players=players)
    storage.write_text(location, page)
    log.info("report of %.1f MiB at %s", len(page.encode()) / 2**20, location)


def render_tagging_report(content: TaggingReport, *, players: PlayerSettings | None = None) -> str:
    """The page as text. Every text of `content` is escaped."""
    main_curves, other_curves = plots.curves(content.curves)
    sets = [_set(content, name) for name in _set_names(content.evaluation)]
    return render_template(
        "tagging_report.html",
        extra_styles=("tagging_report.css",),
        content=content,
        headlines=_headlines(sets),
        sets=sets,
        metrics=_METRICS,
        wrong_tag_plots=[one["wrong_tags"] for one in sets if one["wrong_tags"] is not None],
        confusions=[_confusion(entry) for entry in content.confusions],
        curves=main_curves,
        other_curves=other_curves,
        listening=cards_in_turns([content.listening], players or PlayerSettings())[0],
        model_facts=list(dict.fromkeys(name for facts in content.models.values() for name in facts)),
    )


def _set_names(evaluation: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for parts in evaluation.values() for name in parts.get("tagging") or {}))


def _headlines(sets: Sequence[Mapping[str, Any]]) -> list[Headline]:
    """OmAP of the models on the first set, each with what it is worth nothing without."""
    lines = []
    for row in [row for one in sets[:1] for row in one["rows"]][:_MAX_HEADLINES]:
        result = row["result"]
        low, high = result["OmAP_interval"]
        floor = percent(result["random_floor"]["OmAP"])
        detail = (
            f"[{percent(low)}, {percent(high)}]; random scores {floor} %; mAP {percent(result['mAP'])} %; "
            f"{result['num_clips']:,} clips"
        )
        label = f"OmAP, {row['model']}" + (f", {sets[0]['name']}" if len(sets) > 1 else "")
        lines.append(Headline(f"{percent(result['OmAP'])} %", label, detail))
    return lines


def _set(content: TaggingReport, set_name: str) -> dict[str, Any]:
    """Everything about one evaluation set: the rows of its tables and its plots."""
    results = {
        model: parts["tagging"][set_name]
        for model, parts in content.evaluation.items()
        if set_name in (parts.get("tagging") or {})
    }
    lows, highs = zip(*(result["OmAP_interval"] for result in results.values()), strict=True)
    domain = (max(0.0, min(lows) - 0.01), min(1.0, max(highs) + 0.01))
    plain = [name for name in content.baselines if name in results][:1]
    drawn = [
        tagging_plots.omap_over_levels(results, set_name=set_name),
        *(tagging_plots.gain_over_levels(results, baseline, set_name=set_name) for baseline in plain),
    ]
    first = next(iter(results.values()))
    return {
        "name": set_name,
        "rows": [
            {
                "model": model,
                "result": result,
                "bar": Markup(plots.interval_bar(result["OmAP"], result["OmAP_interval"], domain)),
            }
            for model, result in results.items()
        ],
        "first": first,
        "has_accuracy": any(result["accuracy"] is not None for result in results.values()),
        "differences": _differences(content, set_name, list(results)),
        "plots": [plot for plot in drawn if plot is not None],
        "wrong_tags": tagging_plots.wrong_tag_distances(results, set_name=set_name),
        "levels": [
            {
                "level": level,
                "floor": first["random_floor"]["OmAP_by_level"][level],
                "numbers": [result["OmAP_by_level"][level] for result in results.values()],
            }
            for level in range(len(first["OmAP_by_level"]))
        ],
        "classes": _classes(results),
        "absent": [row["name"] for row in first["per_class"] if row["num_positives"] == 0],
    }


def _differences(content: TaggingReport, set_name: str, models: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each model and baseline of which the set has a difference, with a cell for each metric."""
    found = {
        (row["student"], row["baseline"], row["metric"]): row
        for row in content.differences
        if row["set"] == set_name and row["student"] in models
    }
    # OmAP moves less than mAP: a scale for each, so that the bars of both can be read.
    reach = {
        metric: max(
            (abs(bound) for key, row in found.items() if key[2] == metric for bound in row["interval"]), default=0
        )
        for metric in _METRICS
    }
    rows = []
    for model, baseline in dict.fromkeys(key[:2] for key in found):
        cells = [
            difference_cell(found[model, baseline, metric], reach[metric])
            if (model, baseline, metric) in found
            else None
            for metric in _METRICS
        ]
        rows.append({"model": model, "baseline": baseline, "cells": cells})
    return rows


def _classes(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Classes that some clip has, the most frequent first; of each AP and OmAP of every model."""
    by_model = [{row["name"]: row for row in result["per_class"]} for result in results.values()]
    names = dict.fromkeys(name for rows in by_model for name in rows)
    absent: dict[str, Any] = {"num_positives": 0, "AP": None, "OmAP": None}
    listed = []
    for name in names:
        found = [rows.get(name, absent) for rows in by_model]
        positives = max(row["num_positives"] for row in found)
        if positives:
            listed.append(
                {"name": name, "num_positives": positives, "numbers": [(row["AP"], row["OmAP"]) for row in found]}
            )
    return sorted(listed, key=lambda row: -row["num_positives"])


def _confusion(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One pair of models, with a bar for each class that moved."""
    moves = [*entry["closer"], *entry["farther"]]
    longest = max((move[side] for move in moves for side in ("before", "after")), default=1.0)
    groups = [
        (
            title,
            tone,
            [
                {**move, "bar": Markup(tagging_plots.move_bar(move["before"], move["after"], longest))}
                for move in entry[key]
            ],
        )
        for key, title, tone in (("closer", "Moved closer", "better"), ("farther", "Moved farther", "worse"))
    ]
    known = [row for row in entry["per_class"] if row["num_before"] or row["num_after"]]
    return {**entry, "groups": groups, "classes": sorted(known, key=lambda row: -row["num_before"])}
