"""A page as one text: a packaged template with style and script inside it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from raysem.reports.cells import percent, points, rounded_count, signed, spoken_duration
from raysem.reports.plots import spoken_label

# Control characters, and those that turn the direction of what follows: `gpj.exe` reads `exe.jpg` after one of them.
_DECEPTIVE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def render_template(name: str, *, extra_styles: tuple[str, ...] = (), **values: Any) -> str:
    """The packaged template `name`, with `values` in it. Every text is escaped: names come from strangers.

    Args:
        extra_styles: packaged style sheets after `report.css`.
    """
    environment = Environment(
        loader=FunctionLoader(packaged),
        autoescape=True,
        finalize=_without_deception,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "signed": signed,
        "rounded_count": rounded_count,
        "duration": spoken_duration,
        "spoken": spoken_label,
        "thousands": lambda count: f"{count:,}",
    }
    script = packaged("report.js")
    return environment.get_template(name).render(
        style=Markup("".join(packaged(sheet) for sheet in ("report.css", *extra_styles))),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def _without_deception(value: Any) -> Any:
    """A text of strangers shows what it holds; what raysem itself has marked as HTML stays."""
    return _DECEPTIVE.sub("\ufffd", value) if type(value) is str else value


def packaged(name: str) -> str:
    """The text of a file beside this module."""
    return resources.files("raysem.reports").joinpath(name).read_text(encoding="utf-8")
