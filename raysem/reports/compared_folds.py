"""Cross-validations side by side: whether they tested the same folds and clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raysem.errors import DataError
from raysem.reports.seed_intervals import ClipScores


def is_cross_validation(summary: Mapping[str, Any]) -> bool:
    """Whether a run's summary.json is that of a cross-validation."""
    return any("classification" in parts for parts in summary["evaluation"].values())


def tested_folds(summary: Mapping[str, Any]) -> str:
    """The folds that a cross-validation tested, in words; of how many, where the recipe is known."""
    result = next(_results(summary))
    tested = [str(one["fold"]) for one in result["by_fold"]]
    words = f"fold{'s' if len(tested) > 1 else ''} {', '.join(tested)}"
    folds = summary.get("recipe", {}).get("folds", {})
    if folds.get("official"):
        words += f" of {len(folds['official'])} official ones"
    elif folds.get("drawn"):
        words += f" of {folds['drawn']} drawn ones"
    return words


def check_same_folds(summaries: Sequence[Mapping[str, Any]], clip_scores: Sequence[Mapping[str, ClipScores]]) -> None:
    """DataError naming the first cross-validation that tested other folds or clips than the first one did.

    Folds drawn with another seed hold other clips: what counts is that all tested folds together hold the same. Runs
    that left no scores clip by clip are compared by the number of their clips.
    """
    first: tuple[int, Mapping[str, Any], Mapping[str, ClipScores]] | None = None
    for number, (summary, scores) in enumerate(zip(summaries, clip_scores, strict=True), start=1):
        if not is_cross_validation(summary):
            continue
        if first is None:
            first = number, summary, scores
            continue
        at, before, before_scores = first
        if tested_folds(summary) != tested_folds(before):
            raise DataError(
                f"compare: run {number} tested {tested_folds(summary)}, run {at} {tested_folds(before)}; they cannot "
                "be compared"
            )
        own, others = _clips(summary, scores), _clips(before, before_scores)
        if isinstance(own, int) or isinstance(others, int):
            own, others = _count(own), _count(others)
            differ = f"{own} clips and {others}" if own != others else ""
        else:
            apart = own ^ others
            differ = f"{len(apart)} clips are in one of them only, the first is {min(apart)}" if apart else ""
        if differ:
            raise DataError(f"compare: runs {at} and {number} were tested on other clips ({differ})")


def _results(summary: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (parts["classification"] for parts in summary["evaluation"].values() if "classification" in parts)


def _clips(summary: Mapping[str, Any], scores: Mapping[str, ClipScores]) -> set[str] | int:
    """The ids of the tested clips, or where they are not known their number."""
    for known in scores.values():
        return set(known.clip_ids)
    return int(next(_results(summary))["pooled"]["num_clips"])


def _count(clips: set[str] | int) -> int:
    return clips if isinstance(clips, int) else len(clips)
