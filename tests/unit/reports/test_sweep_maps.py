from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_maps import heat_map, heat_maps

A = SweepKey("one.a", "grid", [0.1, 0.2, 0.3])
B = SweepKey("two.b", "choice", ["x <b>", "y"])
C = SweepKey("three.c", "grid", [1, 2])
RATE = SweepKey("four.rate", "uniform", low=0, high=1)


def trial(a: float, b: str, c: int, metric: float | None, status: Any = "finished", seed: int = 0) -> SweepTrial:
    params = {A.name: a, B.name: b, C.name: c}
    return SweepTrial(f"{a}{b}{c}{seed}", params, seed, status, metric=metric)


TRIALS = [
    trial(0.1, "x <b>", 1, 0.50),
    trial(0.1, "x <b>", 1, 0.52, seed=1),
    trial(0.1, "x <b>", 2, 0.60),
    trial(0.1, "x <b>", 2, 0.62, seed=1),
    trial(0.2, "x <b>", 1, 0.70),
    trial(0.2, "y", 1, None, "failed"),
    trial(0.3, "x <b>", 1, 0.2, "stopped"),
    trial(0.3, "y", 2, 0.64),
]


def report(**changes: Any) -> SweepReport:
    given: dict[str, Any] = {"metric": "accuracy", "keys": [A, B, C], "trials": TRIALS}
    return SweepReport("t", **given | changes)


def cells(svg: str) -> dict[str, str]:
    """By what a cell says of its place, what it says of its metric."""
    titles = [title.text or "" for title in ElementTree.fromstring(svg).iter("title")]
    return dict(title.split(": ", 1) for title in titles)


def shares(svg: str) -> list[float]:
    return [float(share) for share in re.findall(r"--share: ([\d.]+)", svg)]


def test_there_is_a_map_for_each_pair_of_listed_keys_with_several_values():
    assert [plot.title for plot in heat_maps(report())] == ["a × b", "a × c", "b × c"]
    assert heat_maps(report(trials=[TRIALS[5]])) == []
    drawn = [SweepTrial("a", {A.name: 0.1, RATE.name: 0.5}, 0, "finished", metric=0.5)]
    assert heat_maps(SweepReport("t", keys=[A, RATE], trials=drawn)) == []


def test_a_cell_is_the_mean_over_seeds_and_all_other_keys():
    found = cells(heat_map(report(), A, B).svg)
    assert found["b = x <b>, a = 0.1"] == "56.0 ± 5.9, 4 trials"
    assert found["b = x <b>, a = 0.2"] == "70.0, 1 trial"
    assert found["b = y, a = 0.3"] == "64.0, 1 trial"
    assert len(found) == 6


def test_an_empty_cell_tells_whether_it_was_not_run_or_stopped_or_failed():
    plot = heat_map(report(), A, B)
    found = cells(plot.svg)
    assert found["b = y, a = 0.1"] == "not run"
    assert found["b = y, a = 0.2"] == "failed"
    assert found["b = x <b>, a = 0.3"] == "stopped early"
    assert plot.svg.count("hm-empty") == 3
    assert plot.caption.endswith("Dashed: not run; ○: stopped early; ×: failed.")
    assert "3 of 6 cells are empty" in plot.alt


@pytest.mark.parametrize(("direction", "best"), [("max", "70.0"), ("min", "56.0")])
def test_the_strongest_cell_is_the_best_whichever_way_is_better(direction: Any, best: str):
    plot = heat_map(report(direction=direction), A, B)
    assert sorted(shares(plot.svg))[0] == 0
    assert sorted(shares(plot.svg))[-1] == 1
    (strongest,) = re.findall(r'hm-best"[^>]*--share: 1\.000"/><text[^>]*>([^<]*)<', plot.svg)
    assert strongest == best


def test_more_lies_higher_and_further_right():
    svg = heat_map(report(), A, C).svg
    texts = {
        element.text: float(element.get("y", "0"))
        for element in ElementTree.fromstring(svg).iter("text")
        if element.get("text-anchor") == "end"
    }
    assert texts["2"] < texts["1"]
    heads = [found for found in re.findall(r">([\d.]+)</text>", svg) if found in ("0.1", "0.2", "0.3")]
    assert heads == ["0.1", "0.2", "0.3"]


def test_equal_metrics_are_drawn_and_long_texts_are_cut():
    key = SweepKey("long.key", "choice", ["z" * 60, "<w>"])
    trials = [
        SweepTrial(f"{a}{b}", {A.name: a, key.name: b}, 0, "finished", metric=0.5) for a in A.values for b in key.values
    ]
    plot = heat_map(SweepReport("t", keys=[A, key], trials=trials), A, key)
    ElementTree.fromstring(plot.svg)
    assert set(shares(plot.svg)) == {0.5}
    assert ">" + "z" * 23 + "…</text>" in plot.svg
