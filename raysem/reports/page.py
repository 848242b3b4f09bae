"""The report as one file: style, script, plots and audio are inside, and nothing is fetched."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.reports import plots
from raysem.reports.accuracy_tables import accuracy_rows, confusions, per_class
from raysem.reports.content import ClassListening, ListenItem, ReportContent
from raysem.reports.layout import render_template
from raysem.reports.player_budget import SoundCard, cards_in_turns
from raysem.reports.players import PlayerSettings

log = logging.getLogger(__name__)

_RETRIEVAL_NUMBERS = ("R@1", "R@5", "R@10", "mAP@10")
_DIRECTIONS = (("text_to_audio", "text → audio"), ("audio_to_text", "audio → text"))
_LISTENING_GROUPS = (("best", "Best"), ("borderline", "Borderline"), ("rejected", "Rejected"))


def write_report(content: ReportContent, location: str, *, players: PlayerSettings | None = None) -> None:
    """Write `render(content)` to `location`: a path or URI that ends in .html."""
    page = render(content, players=players)
    storage.write_text(location, page)
    log.info("report of %.1f MiB at %s", len(page.encode()) / 2**20, location)


def render(content: ReportContent, *, players: PlayerSettings | None = None) -> str:
    """The page as text. Every text of `content` is escaped: captions and file names come from strangers."""
    main_curves, other_curves = plots.curves(content.curves)
    return render_template(
        "report.html",
        content=content,
        headlines=content.headlines,
        zero_shot=_zero_shot_tables(content),
        retrieval=_retrieval_tables(content),
        curation_plots=_curation_plots(content),
        curves=main_curves,
        other_curves=other_curves,
        listening=_listening_cards(content.listening, players or PlayerSettings()),
        groups=_LISTENING_GROUPS,
    )


def _zero_shot_tables(content: ReportContent) -> list[dict[str, Any]]:
    return [_zero_shot_table(content, name) for name in _set_names(content.evaluation, "zero_shot")]


def _zero_shot_table(content: ReportContent, set_name: str) -> dict[str, Any]:
    results = {
        model: parts["zero_shot"][set_name]
        for model, parts in content.evaluation.items()
        if set_name in parts.get("zero_shot", {})
    }
    differences = [
        row for row in content.differences if row["set"] == set_name and row.get("metric", "accuracy") == "accuracy"
    ]
    rows, compared = accuracy_rows(results, differences, content.baselines)
    first = next(iter(results.values()))
    return {
        "name": set_name,
        "rows": rows,
        "baselines": compared,
        "num_clips": first["num_clips"],
        "num_classes": len(first["per_class"]),
        "level": first.get("interval_level", 0.95),
        "protocol": first.get("protocol", {}),
        "per_class": per_class(results),
        "confusions": confusions(results),
        "confused": {model: result.get("most_confused", []) for model, result in results.items()},
    }


def _retrieval_tables(content: ReportContent) -> list[dict[str, Any]]:
    tables = []
    for set_name in _set_names(content.evaluation, "retrieval"):
        rows = []
        for model, parts in content.evaluation.items():
            result = parts.get("retrieval", {}).get(set_name)
            if result is not None:
                numbers = [
                    (result[direction].get(number), result[direction].get(f"{number}_interval"))
                    for direction, _ in _DIRECTIONS
                    for number in _RETRIEVAL_NUMBERS
                ]
                rows.append({"model": model, "numbers": numbers, "result": result})
        tables.append(
            {
                "name": set_name,
                "rows": rows,
                "directions": [spoken for _, spoken in _DIRECTIONS],
                "numbers": _RETRIEVAL_NUMBERS,
                "first": rows[0]["result"],
            }
        )
    return tables


def _set_names(evaluation: Mapping[str, Mapping[str, Any]], part: str) -> list[str]:
    return list(dict.fromkeys(name for parts in evaluation.values() for name in parts.get(part) or {}))


def _curation_plots(content: ReportContent) -> list[plots.Plot]:
    drawn: list[plots.Plot | None] = []
    if content.similarities is not None:
        drawn += [
            plots.similarity_histogram(content.similarities),
            plots.kept_against_threshold(content.similarities),
            plots.precision_against_threshold(content.similarities),
        ]
    drawn.append(plots.hub_share(content.improvement_sets))
    for kept in content.improvement_sets:
        drawn += [plots.captions_per_clip(kept), plots.clips_per_caption(kept)]
    return [plot for plot in drawn if plot is not None]


def _listening_cards(
    listening: Sequence[ClassListening], settings: PlayerSettings
) -> list[tuple[str, dict[str, list[SoundCard[ListenItem]]]]]:
    """Cards by class and group; the bound on audio leaves every class something to hear."""
    names = [group for group, _ in _LISTENING_GROUPS]
    cards = iter(cards_in_turns([getattr(one, group) for one in listening for group in names], settings))
    return [(one.label, {group: next(cards) for group in names}) for one in listening]
