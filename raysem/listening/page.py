"""The page that raters get: one file with style, script and sounds, which fetches and sends nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from raysem.listening.study import ANSWERS_FORMAT, SAME
from raysem.reports.players import Player

MAX_TOTAL_MIB = 64
"""Of encoded sound: a third more in the file. Beyond it a phone's browser may give up."""


@dataclass(frozen=True)
class PageClip:
    """All that the page knows of a clip: neither its id nor which list is whose."""

    token: str
    player: Player
    is_whole: bool
    left: tuple[str, tuple[str, ...]]
    """Token and tags of the list on the left."""
    right: tuple[str, tuple[str, ...]]


def render(study: str, clips: Sequence[PageClip]) -> str:
    """The page as text. Tags come from strangers: they are data for the script, which writes them as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = _packaged("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    seconds = sum(clip.player.duration_seconds for clip in clips)
    return environment.from_string(_packaged("page.html")).render(
        style=Markup(_packaged("page.css")),
        script=Markup(script),
        script_digest=digest,
        num_clips=len(clips),
        spoken_sound=_spoken_minutes(seconds),
        study={"study": study, "format": ANSWERS_FORMAT, "same": SAME, "clips": [_plain(clip) for clip in clips]},
    )


def _plain(clip: PageClip) -> dict[str, object]:
    return {
        "token": clip.token,
        "audio": clip.player.uri,
        "seconds": round(clip.player.duration_seconds, 3),
        "whole": clip.is_whole,
        "peaks": clip.player.peaks,
        "left": {"token": clip.left[0], "tags": clip.left[1]},
        "right": {"token": clip.right[0], "tags": clip.right[1]},
    }


def _spoken_minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return "about a minute" if minutes == 1 else f"about {minutes} minutes"


def _packaged(name: str) -> str:
    return resources.files("raysem.listening").joinpath(name).read_text(encoding="utf-8")
