"""The report on classifiers over k folds as one file, in the style of every report: nothing is fetched."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.reports import plots
from raysem.reports.accuracy_tables import accuracy_rows, confusions, per_class
from raysem.reports.cells import percent
from raysem.reports.classification_content import ClassificationReport, HeardMistake, HeardPair
from raysem.reports.content import Headline
from raysem.reports.layout import render_template
from raysem.reports.player_budget import SoundCard, cards_in_turns
from raysem.reports.players import PlayerSettings

log = logging.getLogger(__name__)

_MAX_HEADLINES = 8


def write_classification_report(
    content: ClassificationReport, location: str, *, players: PlayerSettings | None = None
) -> None:
    """Write `render(content)` to `location`: a path or URI that ends in .html."""
    page = render_classification_report(content, players=players)
    storage.write_text(location, page)
    log.info("report of %.1f MiB at %s", len(page.encode()) / 2**20, location)


def render_classification_report(content: ClassificationReport, *, players: PlayerSettings | None = None) -> str:
    """The page as text. Every text of `content` is escaped: labels and clip ids come from strangers."""
    main_curves, other_curves = plots.curves_of_folds(content.curves)
    results = {
        model: parts["classification"] for model, parts in content.evaluation.items() if parts.get("classification")
    }
    return render_template(
        "classification_report.html",
        extra_styles=("classification_report.css",),
        content=content,
        headlines=[_headline(model, result) for model, result in list(results.items())[:_MAX_HEADLINES]],
        table=_table(results, content) if results else None,
        folds=_folds(results),
        curves=main_curves,
        other_curves=other_curves,
        listening=_listening(content.listening, players or PlayerSettings()),
        model_facts=list(dict.fromkeys(name for facts in content.models.values() for name in facts)),
    )


def mean_and_deviation(result: Mapping[str, Any]) -> str:
    """The folds' accuracies as "97.2 ± 0.3", in %; a single fold has no deviation."""
    deviation = "" if result["sd"] is None else f" ± {percent(result['sd'])}"
    return f"{percent(result['mean'])}{deviation}"


def _headline(model: str, result: Mapping[str, Any]) -> Headline:
    pooled = result["pooled"]
    low, high = (percent(bound) for bound in pooled["interval"])
    clips = f"[{low}, {high}]; {pooled['num_clips']:,} clips"
    if result["sd"] is None:
        return Headline(f"{percent(result['mean'])} %", model, f"fold {result['by_fold'][0]['fold']}; {clips}")
    num_folds = len(result["by_fold"])
    detail = f"mean ± sd of {num_folds} folds; pooled {percent(pooled['accuracy'])} % {clips}"
    return Headline(f"{mean_and_deviation(result)} %", model, detail)


def _table(results: Mapping[str, Mapping[str, Any]], content: ClassificationReport) -> dict[str, Any]:
    """Everything about the pooled clips: the rows of the tables and the matrices."""
    pooled = {model: result["pooled"] for model, result in results.items()}
    differences = [row for row in content.differences if row["metric"] == "accuracy"]
    rows, compared = accuracy_rows(pooled, differences, content.baselines)
    for row in rows:
        result = results[row["model"]]
        row["mean"] = mean_and_deviation(result)
        row["folds"] = [one["fold"] for one in result["by_fold"]]
    first = next(iter(results.values()))
    return {
        "rows": rows,
        "baselines": compared,
        "first": first,
        "pooled": first["pooled"],
        "has_folds": any(result["sd"] is not None for result in results.values()),
        # One sentence tells the clips of all models only where they are the same.
        "one_test": len({(row["result"]["num_clips"], row["result"]["num_unscored"], *row["folds"]) for row in rows})
        == 1,
        "per_class": sorted(per_class(pooled), key=_mean_accuracy),
        "confusions": confusions(pooled),
        "confused": {model: result["most_confused"] for model, result in pooled.items()},
    }


def _mean_accuracy(row: Mapping[str, Any]) -> float:
    """Of the models that were tested on the class; a class without clips goes last."""
    known = [accuracy for accuracy in row["accuracies"] if accuracy is not None]
    return sum(known) / len(known) if known else 2.0


def _folds(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each fold with the result of each model (None: the model has no such fold); empty for one fold."""
    by_model = [{one["fold"]: one for one in result["by_fold"]} for result in results.values()]
    numbers = sorted({fold for found in by_model for fold in found})
    if len(numbers) < 2:
        return []
    return [
        {
            "fold": fold,
            "results": [found.get(fold) for found in by_model],
            "num_clips": _range(found[fold]["num_clips"] for found in by_model if fold in found),
            "num_unscored": _range(found[fold]["num_unscored"] for found in by_model if fold in found),
        }
        for fold in numbers
    ]


def _range(counts: Iterable[int]) -> str:
    """Models may have been tested on other numbers of clips: "400", or "398–400"."""
    ordered = sorted(counts)
    return f"{ordered[0]:,}" if ordered[0] == ordered[-1] else f"{ordered[0]:,}–{ordered[-1]:,}"


def _listening(
    listening: Mapping[str, Sequence[HeardPair]], settings: PlayerSettings
) -> list[tuple[str, list[tuple[HeardPair, list[SoundCard[HeardMistake]]]]]]:
    """Cards by model and pair; the bound on audio leaves every pair something to hear."""
    shown = {model: [pair for pair in pairs if pair.clips] for model, pairs in listening.items()}
    cards = iter(cards_in_turns([pair.clips for pairs in shown.values() for pair in pairs], settings))
    return [(model, [(pair, next(cards)) for pair in pairs]) for model, pairs in shown.items() if pairs]
