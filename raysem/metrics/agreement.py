"""How far raters agree on categories: Krippendorff's alpha, and the units on which they part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import permutations


def krippendorff_alpha(answers_by_unit: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal categories: 1 is full agreement, 0 what chance gives, below 0 is worse.

    K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C. Raters need not have answered
    everything: a unit counts with the answers that it has, and not at all with fewer than two.

    Args:
        answers_by_unit: for each unit the categories that it was given, by whomever.

    Returns:
        None where alpha is not defined: no unit has two answers, or all such answers are of one category.
    """
    coincidences: defaultdict[tuple[Hashable, Hashable], float] = defaultdict(float)
    for answers in answers_by_unit:
        for pair in permutations(answers, 2):
            coincidences[pair] += 1 / (len(answers) - 1)
    totals: defaultdict[Hashable, float] = defaultdict(float)
    for (one, _), count in coincidences.items():
        totals[one] += count
    size = sum(totals.values())
    expected = size**2 - sum(total**2 for total in totals.values())
    if len(totals) < 2:
        return None
    observed = sum(count for (one, other), count in coincidences.items() if one != other)
    return 1 - (size - 1) * observed / expected


def disagreement(answers: Sequence[Hashable]) -> float:
    """Share of the pairs of answers that differ, from 0 to 1.

    Raises:
        ValueError: fewer than two answers.
    """
    num_pairs = len(answers) * (len(answers) - 1)
    if not num_pairs:
        raise ValueError(f"disagreement needs two answers or more, got {len(answers)}")
    alike = sum(count * (count - 1) for count in Counter(answers).values())
    return 1 - alike / num_pairs
