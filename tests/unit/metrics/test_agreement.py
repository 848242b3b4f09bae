from __future__ import annotations

import itertools

import numpy as np
import pytest

from raysem.metrics.agreement import disagreement, krippendorff_alpha

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units.
PUBLISHED = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def units(rows: list[str]) -> list[list[str]]:
    return [[answer for answer in unit if answer != "."] for unit in zip(*(row.split() for row in rows), strict=True)]


def test_alpha_is_the_published_one_with_missing_answers():
    assert krippendorff_alpha(units(PUBLISHED)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_raters_has_its_closed_form():
    # 10 units, 6 alike (5 a, 1 b), 4 not: D_o = 0.4; 14 a and 6 b among 20 values: D_e = 2 * 14 * 6 / (20 * 19)
    answers = [("a", "a")] * 5 + [("b", "b")] + [("a", "b"), ("b", "a")] * 2
    assert krippendorff_alpha(answers) == pytest.approx(1 - 0.4 / (2 * 14 * 6 / (20 * 19)), abs=1e-15)


def test_alpha_is_one_in_full_agreement_and_near_zero_by_chance():
    assert krippendorff_alpha([("a", "a"), ("b", "b", "b")]) == 1
    drawn = np.random.default_rng(0).integers(3, size=(4000, 3)).tolist()
    assert krippendorff_alpha(drawn) == pytest.approx(0, abs=0.03)
    assert krippendorff_alpha([("a", "b")] * 3) < 0


def test_order_names_and_single_answers_change_nothing():
    found = krippendorff_alpha(units(PUBLISHED))
    turned = [unit[::-1] for unit in units(PUBLISHED)][::-1]
    assert krippendorff_alpha(turned) == pytest.approx(found, abs=1e-15)
    assert krippendorff_alpha([*units(PUBLISHED), ["1"], []]) == pytest.approx(found, abs=1e-15)
    assert krippendorff_alpha([[f"name {a}" for a in unit] for unit in units(PUBLISHED)]) == pytest.approx(found)


def test_alpha_is_not_defined_without_pairs_or_without_a_second_category():
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"], ["b"]]) is None


def test_disagreement_is_the_share_of_pairs_that_differ():
    for answers in (("a", "a"), ("a", "b"), ("a", "a", "b"), ("a", "b", "c", "c", "c")):
        pairs = list(itertools.combinations(answers, 2))
        assert disagreement(answers) == pytest.approx(sum(one != other for one, other in pairs) / len(pairs))
    with pytest.raises(ValueError, match="two answers or more, got 1"):
        disagreement(["a"])
