"""The folds of a cross-validation as parts of its corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raysem.runs.classification_recipe import ClassificationRecipe
from raysem.runs.roles import CorpusSource


def part_name(fold: int, *, held_out: bool = False) -> str:
    """The part of a fold's clips; those that choose checkpoints lie apart."""
    return f"fold{fold}/held_out" if held_out else f"fold{fold}/clips"


def scores_name(classifier: str, part: str) -> str:
    """The stage in which a classifier scores a part."""
    return f"evaluate/{classifier}/{part}"


def fold_sources(recipe: ClassificationRecipe) -> Mapping[str, Sequence[CorpusSource]]:
    """The sources of every part of every fold, by name."""
    folds, parts = recipe.folds, dict[str, Sequence[CorpusSource]]()
    for place, number in enumerate(folds.numbers):
        low, high = (place / folds.drawn, (place + 1) / folds.drawn) if folds.drawn else (0.0, 1.0)
        middle = low + (high - low) * folds.held_out_share
        wanted = (number,) if folds.official else ()
        if folds.held_out_share:
            parts[part_name(number, held_out=True)] = _cut(recipe.corpora.clips, wanted, (low, middle))
        parts[part_name(number)] = _cut(recipe.corpora.clips, wanted, (middle, high))
    return parts


def _cut(
    sources: Sequence[CorpusSource], folds: tuple[int, ...], share: tuple[float, float]
) -> tuple[CorpusSource, ...]:
    """The sources with these folds only, and of the share of each a part."""

    def cut(source: CorpusSource) -> CorpusSource:
        low, high = source.share
        within = (low + (high - low) * share[0], low + (high - low) * share[1])
        return source.model_copy(update={"folds": folds, "share": within})

    return tuple(cut(source) for source in sources)
