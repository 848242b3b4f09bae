"""Names and numbers of a sweep as they are read in its tables and plots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from raysem.reports.cells import percent
from raysem.reports.sweep_content import SweepKey


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Of each dotted name the shortest end that no other shares: `curation.similarity_threshold` by its last part."""
    short = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        short[name] = next(
            (end for end in ends if not any(other != name and f".{other}".endswith(f".{end}") for other in names)), name
        )
    return short


def value_text(value: Any, digits: int = 6) -> str:
    """One line, as YAML would have it: true, null, {form: raw, weight: 0.3}."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.{digits}g}".replace("-", "−")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {value_text(part, digits)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(part, digits) for part in value) + "]"
    return " ".join(str(value).split())


def key_value_text(key: SweepKey, value: Any) -> str:
    """A value of `key`. One that was drawn has as many digits as are read, listed ones all."""
    return value_text(value, 6 if key.is_discrete else 4)


def setting_text(keys: Sequence[SweepKey], params: Mapping[str, Any]) -> str:
    """A whole setting: "similarity_threshold = 0.7, strategy = ADS"."""
    names = short_names([key.name for key in keys])
    return ", ".join(f"{names[key.name]} = {key_value_text(key, params[key.name])}" for key in keys)


def metric_text(value: float | None, is_share: bool) -> str:
    """A share in % without the sign; any other number with four digits; a dash for None."""
    if value is None or is_share:
        return percent(value)
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


def spread_text(mean: float | None, deviation: float | None, is_share: bool) -> str:
    """ "82.4 ± 0.6"; one value alone has no spread."""
    if mean is None or deviation is None:
        return metric_text(mean, is_share)
    spread = percent(deviation) if is_share else f"{deviation:,.0f}" if abs(mean) >= 1000 else f"{deviation:.2g}"
    return f"{metric_text(mean, is_share)} ± {spread}"


def breakable(name: str) -> Markup:
    """For the head of a table: a long name may go on in a second line after a dot or an underscore."""
    return Markup(re.sub(r"([._])(?=.)", r"\1<wbr/>", str(escape(name))))


def clipped(text: str, length: int = 24) -> str:
    """At most `length` signs, for an axis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
