"""What stands in the cells of a report's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from raysem.reports.plots import interval_bar


def percent(share: float | None, digits: int = 1) -> str:
    """0.815 as "81.5", without the sign, which stands in the table's head; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def points(difference: float) -> str:
    """0.018 as "+1.8", with a true minus sign; what rounds to nothing has no sign."""
    rounded = f"{100 * difference:+.1f}"
    return "0.0" if float(rounded) == 0 else rounded.replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """-0.412 as "−0.41", with a true minus sign; what rounds to nothing has no sign."""
    rounded = f"{value:+.{digits}f}"
    return rounded[1:] if float(rounded) == 0 else rounded.replace("-", "−")


def rounded_count(count: float) -> str:
    """1203.0 as "1,203" and 12.333 as "12.3": what is shared between classes need not be whole."""
    return f"{count:,.1f}".removesuffix(".0")


def spoken_duration(seconds: float) -> str:
    """75.2 as "1 min 15 s"; below ten seconds with a decimal."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def difference_cell(row: Mapping[str, Any], reach: float) -> dict[str, Any]:
    """A paired difference for a table: numbers, a bar from -reach to reach, and what may be said of it."""
    low, high = row["interval"]
    tone, verdict = ("better", "better") if low > 0 else ("worse", "worse") if high < 0 else ("neutral", "unclear")
    bar = interval_bar(row["difference"], row["interval"], (-reach, reach), zero=True, tone=tone)
    return {
        "difference": row["difference"],
        "low": low,
        "high": high,
        "tone": tone,
        "verdict": verdict,
        "bar": Markup(bar),
    }
