"""How plots look: inline SVG that takes the page's font and its light or dark colours."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that no plot would use: each is replaced by a variable of the page's style sheet.
INK, MUTED, GRID, MARK, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05"
SERIES = tuple(f"#0a0c0{index}" for index in range(1, 7))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", MARK: "--mark", PAPER: "--surface"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, start=1)
}
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), "-", (0, (3, 1.5)))
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, in the page's font
    "svg.hashsalt": "raysem",
    "text.parse_math": False,  # a "$" in a class name is a "$"
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """`svg` for the page, `alt` for those who cannot see it, `caption` for all."""

    title: str
    svg: str
    alt: str
    caption: str = ""


@contextmanager
def new_axes(width: float = 5.4, height: float = 3.1) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Axes in this style, in inches, and what makes them an SVG when they are drawn on."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))  # not pyplot: no window system, no global state
        axes = figure.add_subplot()
        yield axes, lambda: _as_inline_svg(figure)


def _as_inline_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([\w-]+)', svg))
    # Identifiers are unique in a page, and most of matplotlib's are never referred to.
    svg = re.sub(r'\sid="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", svg)
    salt = f"p{zlib.crc32(svg.encode()):08x}"
    for identifier in used:
        svg = re.sub(rf'(url\(#|href="#|id="){re.escape(identifier)}(?=[)"])', rf"\g<1>{salt}-{identifier}", svg)
    return re.sub(r'<svg[^>]*viewBox="([^"]+)"[^>]*>', r'<svg class="plot" viewBox="\1">', svg, count=1).strip()


def series_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the line of model `index`; the seventh has the first colour again and other dashes."""
    return {
        "color": SERIES[index % len(SERIES)],
        "linestyle": _DASHES[(index + index // len(SERIES)) % len(_DASHES)],
    }
