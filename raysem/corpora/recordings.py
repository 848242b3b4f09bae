"""Which recording a clip was cut from: the same sound under another name in another corpus.

ESC-50, UrbanSound8K, FSD50K and much of Clotho are cut from Freesound; AudioSet and AudioCaps share YouTube ids. A
training clip whose recording is in an evaluation set has to go, whatever its file is called.
"""

from __future__ import annotations

import re

_PATTERNS: dict[str, tuple[str, re.Pattern[str]]] = {
    "esc50": ("freesound", re.compile(r"\d-(\d+)-[A-Z]-\d+")),
    "urbansound8k": ("freesound", re.compile(r"(\d+)-\d+-\d+-\d+")),
    "fsd50k": ("freesound", re.compile(r"(\d+)")),
    "audioset": ("youtube", re.compile(r"([A-Za-z0-9_-]{11})_[0-9.]+")),
    "audiocaps": ("youtube", re.compile(r"([A-Za-z0-9_-]{11})_[0-9.]+")),
}


def recording_id(clip_id: str) -> str | None:
    """`freesound:100032` or `youtube:<id>` of a clip_id as our readers make them; None where the corpus has no such id.

    Clotho's file names carry no id (its metadata csv does), so its clips are left to the comparison by sound.
    """
    source, _, name = clip_id.partition("/")
    if source not in _PATTERNS:
        return None
    site, pattern = _PATTERNS[source]
    match = pattern.fullmatch(name)
    return f"{site}:{match.group(1)}" if match else None
