"""The report as one file: style, script, plots and audio are inside, and nothing is fetched."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from raysem import storage
from raysem.reports import plots
from raysem.reports.cells import difference_cell
from raysem.reports.content import ClassListening, ListenItem, ReportContent
from raysem.reports.layout import render_template
from raysem.reports.player_budget import PlayerBudget, wave
from raysem.reports.players import Player, PlayerSettings

log = logging.getLogger(__name__)

_RETRIEVAL_NUMBERS = ("R@1", "R@5", "R@10", "mAP@10")
_DIRECTIONS = (("text_to_audio", "text → audio"), ("audio_to_text", "audio → text"))
_LISTENING_GROUPS = (("best", "Best"), ("borderline", "Borderline"), ("rejected", "Rejected"))


@dataclass(frozen=True)
class ListeningCard:
    """One pair in the page; `player` is None where the page's bound on audio was reached."""

    item: ListenItem
    player: Player | None
    wave: Markup


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
    baselines = [name for name in content.baselines if name in results]
    differences = {
        (row["student"], row["baseline"]): row
        for row in content.differences
        if row["set"] == set_name and row.get("metric", "accuracy") == "accuracy"
    }
    compared = [name for name in baselines if any((model, name) in differences for model in results)]
    shown = [row for (_, baseline), row in differences.items() if baseline in compared]
    reach = max((abs(bound) for row in shown for bound in row["interval"]), default=0.01)
    lows, highs = zip(*(result["interval"] for result in results.values()), strict=True)
    domain = (max(0.0, min(lows) - 0.01), min(1.0, max(highs) + 0.01))
    rows = []
    for model, result in results.items():
        cells = [
            difference_cell(differences[model, baseline], reach) if (model, baseline) in differences else None
            for baseline in compared
        ]
        bar = plots.interval_bar(result["accuracy"], result["interval"], domain)
        rows.append({"model": model, "result": result, "bar": Markup(bar), "differences": cells})
    first = next(iter(results.values()))
    return {
        "name": set_name,
        "rows": rows,
        "baselines": compared,
        "num_clips": first["num_clips"],
        "num_classes": len(first["per_class"]),
        "level": first.get("interval_level", 0.95),
        "protocol": first.get("protocol", {}),
        "per_class": _per_class(results),
        "confusions": _confusions(results),
        "confused": {model: result.get("most_confused", []) for model, result in results.items()},
    }


def _per_class(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    labels = dict.fromkeys(label for result in results.values() for label in result["per_class"])
    absent: dict[str, Any] = {"accuracy": None, "num_clips": 0}
    rows = []
    for label in labels:
        found = [result["per_class"].get(label, absent) for result in results.values()]
        rows.append(
            {
                "label": label,
                "num_clips": max(one["num_clips"] for one in found),
                "accuracies": [one["accuracy"] for one in found],
            }
        )
    return rows


def _confusions(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, plots.Plot]]:
    return [
        (model, plots.confusion(result["confusion"]["labels"], result["confusion"]["counts"], title=model))
        for model, result in results.items()
        if "confusion" in result
    ]


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
) -> list[tuple[str, dict[str, list[ListeningCard]]]]:
    """Cards by class and group. Players are given out in turns, one pair of each group of each class at a time,
    so that the bound leaves every class something to hear."""
    wanted = [
        (position, at, group)
        for at, one in enumerate(listening)
        for group, _ in _LISTENING_GROUPS
        for position in range(len(getattr(one, group)))
    ]
    cards: dict[tuple[int, int, str], ListeningCard] = {}
    budget = PlayerBudget(settings)
    for position, at, group in sorted(wanted, key=lambda key: key[:2]):
        item = getattr(listening[at], group)[position]
        player = budget.player(item.waveform_T, item.sample_rate)
        cards[position, at, group] = ListeningCard(item, player, wave(player))
    if budget.num_players < len(wanted):
        log.info("the report plays %d of %d pairs: its bound on audio is reached", budget.num_players, len(wanted))
    return [
        (
            one.label,
            {group: [cards[p, at, group] for p in range(len(getattr(one, group)))] for group, _ in _LISTENING_GROUPS},
        )
        for at, one in enumerate(listening)
    ]
