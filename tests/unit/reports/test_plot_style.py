from __future__ import annotations

import re

from raysem.reports.plot_style import SERIES, new_axes, series_style


def test_lines_of_thirty_models_can_be_told_apart():
    styles = [(style["color"], style["linestyle"]) for style in map(series_style, range(30))]
    assert len({styles.index(style) for style in styles[:6]}) == 6
    assert len(set(styles)) >= 25
    assert styles[0] != styles[6]


def test_what_is_drawn_takes_the_pages_colours_and_keeps_its_text():
    with new_axes() as (axes, done):
        axes.plot([0, 1], color=SERIES[0], label="a $ <b>")
        axes.legend()
        svg = done()
    assert "var(--series-1)" in svg
    assert not re.search(r"#0a0[bc]", svg)
    assert "a $ &lt;b&gt;" in svg
