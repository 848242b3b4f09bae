from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from raysem.reports.plot_style import Plot
from raysem.reports.tagging_plots import gain_over_levels, move_bar, omap_over_levels, wrong_tag_distances

FLOOR = [0.1, 0.2, 0.5, 1.0]


def result(by_level: list[float], mistakes: list[int], **changes: Any) -> dict[str, Any]:
    given = {
        "OmAP_by_level": by_level,
        "random_floor": {"OmAP_by_level": FLOOR},
        "false_positives_by_distance": mistakes,
        "num_clips": 20,
        "num_positives": 30,
    }
    return given | changes


RESULTS = {
    "one-hot": result([0.5, 0.6, 0.8, 1.0], [0, 1, 1, 8]),
    "SPA <b> & $x$": result([0.6, 0.62, 0.81, 1.0], [0, 6, 2, 2]),
}


def drawn() -> list[Plot]:
    plots = [
        omap_over_levels(RESULTS, set_name="eval"),
        gain_over_levels(RESULTS, "one-hot", set_name="eval"),
        wrong_tag_distances(RESULTS, set_name="eval"),
    ]
    assert all(plots)
    return [plot for plot in plots if plot is not None]


def num_dashed(svg: str) -> int:
    """Dashed grey lines: random scores, not a model."""
    return len(re.findall(r"stroke-dasharray[^>]*var\(--muted\)|var\(--muted\)[^>]*stroke-dasharray", svg))


def test_every_plot_is_well_formed_and_takes_the_pages_colours():
    for plot in drawn():
        ElementTree.fromstring(plot.svg)
        assert len(plot.alt) > 40
        assert not re.search(r"#0a0[bc]", plot.svg)
        assert plot.title.endswith("· eval")


def test_the_same_numbers_give_the_same_bytes():
    assert [plot.svg for plot in drawn()] == [plot.svg for plot in drawn()]


def test_random_scores_are_a_dashed_line_beside_the_models():
    plot = omap_over_levels(RESULTS, set_name="eval")
    assert num_dashed(plot.svg) == 2  # the line and its mark in the legend
    assert ">random scores<" in plot.svg
    assert "one-hot 50.0 % at 0" in plot.alt
    assert "random scores 10.0 % at 0" in plot.alt


def test_models_scored_on_other_clips_have_their_own_floor():
    other = result([0.5, 0.6, 0.8, 1.0], [0, 1, 0, 0], num_clips=19, random_floor={"OmAP_by_level": [0.2, 0.3, 0.6, 1]})
    assert num_dashed(omap_over_levels(RESULTS | {"other": other}, set_name="eval").svg) == 3


def test_the_difference_is_told_in_points_against_the_baseline_and_keeps_the_models_colour():
    plot = gain_over_levels(RESULTS, "one-hot", set_name="eval")
    assert plot is not None
    assert "most at level 0, +10.0 points" in plot.alt
    assert "var(--series-2)" in plot.svg
    assert "var(--series-1)" not in plot.svg
    assert gain_over_levels({"one-hot": RESULTS["one-hot"]}, "one-hot", set_name="eval") is None


def test_a_model_without_mistakes_has_no_line_and_no_mistakes_are_no_plot():
    perfect = result([1.0] * 4, [0] * 4)
    plot = wrong_tag_distances({"one-hot": RESULTS["one-hot"], "perfect": perfect}, set_name="eval")
    assert plot is not None
    assert "one-hot: half within 3 edges, 20 % within 2" in plot.alt
    assert "perfect" not in plot.alt
    assert wrong_tag_distances({"perfect": perfect}, set_name="eval") is None


@pytest.mark.parametrize(("before", "after", "tone"), [(6.0, 3.0, "better"), (3.0, 6.0, "worse")])
def test_a_move_goes_from_the_grey_dot_to_the_coloured_one(before: float, after: float, tone: str):
    bar = move_bar(before, after, 12.0)
    assert f"move {tone}" in bar
    place = {name: float(re.search(rf'{name}" x1="([\d.]+)"', bar)[1]) for name in ("mv-before", "ib-dot")}  # type: ignore[index]
    assert (place["mv-before"], place["ib-dot"]) == (4 + 92 * before / 12, 4 + 92 * after / 12)
