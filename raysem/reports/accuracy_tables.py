"""What every page on single labels tables: models with intervals and differences, accuracy by class, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from raysem.reports import plots
from raysem.reports.cells import difference_cell


def accuracy_rows(
    results: Mapping[str, Mapping[str, Any]], differences: Sequence[Mapping[str, Any]], baselines: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each model, and the baselines that some model is compared with: the columns of `differences`.

    Args:
        results: by model, with `accuracy` and `interval`.
        differences: `Difference.to_json` in accuracy on the set of `results`.
    """
    found = {(row["student"], row["baseline"]): row for row in differences}
    present = [name for name in baselines if name in results]
    compared = [name for name in present if any((model, name) in found for model in results)]
    shown = [row for (_, baseline), row in found.items() if baseline in compared]
    reach = max((abs(bound) for row in shown for bound in row["interval"]), default=0.01)
    lows, highs = zip(*(result["interval"] for result in results.values()), strict=True)
    domain = (max(0.0, min(lows) - 0.01), min(1.0, max(highs) + 0.01))
    rows = []
    for model, result in results.items():
        cells = [
            difference_cell(found[model, baseline], reach) if (model, baseline) in found else None
            for baseline in compared
        ]
        bar = plots.interval_bar(result["accuracy"], result["interval"], domain)
        rows.append({"model": model, "result": result, "bar": Markup(bar), "differences": cells})
    return rows, compared


def per_class(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each class that some model was tested on, with the accuracy of every model (None: not tested)."""
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


def confusions(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, plots.Plot]]:
    """The matrix of each model that has one."""
    return [
        (model, plots.confusion(result["confusion"]["labels"], result["confusion"]["counts"], title=model))
        for model, result in results.items()
        if "confusion" in result
    ]
