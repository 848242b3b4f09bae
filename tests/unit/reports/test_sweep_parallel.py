from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from raysem.reports.sweep_content import SweepKey, SweepReport, SweepTrial
from raysem.reports.sweep_parallel import parallel_coordinates

RATE = SweepKey("training.rate", "loguniform", low=1e-5, high=1e-3)
FORM = SweepKey("student.form", "choice", ["raw <b>", "sharp"])


def trial(name: str, rate: float, form: str, metric: float | None, status: Any = "finished") -> SweepTrial:
    return SweepTrial(name, {RATE.name: rate, FORM.name: form}, 0, status, metric=metric)


TRIALS = [
    trial("low", 1e-5, "raw <b>", 0.6),
    trial("best", 1e-4, "sharp", 0.8),
    trial("high", 1e-3, "sharp", 0.7),
    trial("halted", 1e-4, "raw <b>", 0.1, "stopped"),
    trial("broken", 1e-4, "raw <b>", None, "failed"),
]


def lines(**changes: Any) -> dict[str, dict[str, Any]]:
    """By trial: its class, its points on the axes and its strength."""
    given: dict[str, Any] = {"metric": "accuracy", "keys": [RATE, FORM], "trials": TRIALS, "best": "best"}
    plot = parallel_coordinates(SweepReport("t", **given | changes))
    assert plot is not None
    found = {}
    for path in ElementTree.fromstring(plot.svg).iter("path"):
        numbers = [float(number) for number in re.findall(r"[\d.]+", path.get("d", ""))]
        points = list(zip(numbers[::2], numbers[1::2], strict=True))[::3]  # a curve has two handles between points
        (title,) = [child.text or "" for child in path]
        share = float((path.get("style") or "").removeprefix("--share: "))
        found[title.split(":")[0]] = {"kind": path.get("class"), "points": points, "share": share, "title": title}
    return found


def test_every_trial_is_a_line_through_every_key_to_its_metric():
    found = lines()
    assert set(found) == {one.id for one in TRIALS}
    assert [len(found[name]["points"]) for name in ("low", "best", "high", "halted")] == [3] * 4
    assert found["best"]["title"] == "best: rate = 0.0001, form = sharp, seed 0: 80.0"


def test_a_failed_trial_ends_at_the_last_key():
    found = lines()["broken"]
    assert found["kind"] == "pc-failed"
    assert len(found["points"]) == 2
    assert found["title"].endswith("–, failed")


def test_a_loguniform_key_has_its_decades_evenly_spaced():
    low, middle, high = (lines()[name]["points"][0][1] for name in ("low", "best", "high"))
    assert low - middle == pytest.approx(middle - high, abs=0.1)


@pytest.mark.parametrize(("direction", "strengths"), [("max", [0.0, 1.0, 0.5]), ("min", [1.0, 0.0, 0.5])])
def test_the_better_the_stronger_and_the_best_is_drawn_last(direction: Any, strengths: list[float]):
    found = lines(direction=direction)
    assert [found[name]["share"] for name in ("low", "best", "high")] == pytest.approx(strengths, abs=1e-3)
    assert list(found)[-1] == "best"
    assert found["best"]["kind"] == "pc-best"


def test_what_was_stopped_at_little_ends_at_the_edge_and_presses_nothing_together():
    found = lines()
    assert found["halted"]["points"][-1][1] == found["low"]["points"][-1][1]
    assert found["halted"]["kind"] == "pc-stopped"


def test_trials_of_one_text_are_spread_in_the_order_of_their_metric():
    found = lines()
    assert found["best"]["points"][1][1] < found["high"]["points"][1][1]


def test_fewer_than_two_trials_or_no_metric_are_no_plot():
    assert parallel_coordinates(SweepReport("t", keys=[RATE, FORM], trials=TRIALS[:1])) is None
    failed = [trial("a", 1e-4, "sharp", None, "failed"), trial("b", 1e-4, "sharp", None, "failed")]
    assert parallel_coordinates(SweepReport("t", keys=[RATE, FORM], trials=failed)) is None


def test_equal_values_and_metrics_are_drawn():
    same = [trial("a", 1e-4, "sharp", 0.5), trial("b", 1e-4, "sharp", 0.5)]
    assert {len(line["points"]) for line in lines(trials=same, best=None).values()} == {3}
