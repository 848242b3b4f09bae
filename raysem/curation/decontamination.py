"""Clips of the pool that are part of an evaluation set, by the recording they were cut from or by their embedding.

ESC-50 and UrbanSound8K are cut from Freesound, as are FSD50K, Clotho and much of WavCaps; AudioCaps, VGGSound and
AudioSet share YouTube ids. A clip from the same recording as a test clip is not a fair training clip.
"""

# Shapes: A clips of the pool, E evaluation clips, D embedding width.

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from raysem.curation.matching import match_tiles
from raysem.tables import REJECTS

OUTCOME = "excluded_overlap"

EXCLUDED = pa.schema(
    [
        ("clip_id", pa.string()),
        ("evaluation_set", pa.string()),
        ("evaluation_clip_id", pa.string()),
        ("reason", pa.string()),
        ("similarity", pa.float32()),  # null for an overlap by source id
    ]
)

_FREESOUND_NAMES = {
    "esc50": re.compile(r"^[1-5]-(\d+)-[A-Z]-\d+$"),  # fold-freesound-take-class
    "urbansound8k": re.compile(r"^(\d+)-\d+-\d+-\d+$"),  # freesound-class-occurrence-slice
    "fsd50k": re.compile(r"^(\d+)$"),
    "wavcaps_freesound": re.compile(r"^(\d+)$"),
}
_FREESOUND_URL = re.compile(r"freesound\.org/(?:people/[^/]+/sounds|s)/(\d+)")
_YOUTUBE = r"[A-Za-z0-9_-]{11}"
_YOUTUBE_URL = re.compile(rf"(?:youtube\.com/(?:watch\?(?:.*&)?v=|embed/|shorts/)|youtu\.be/)({_YOUTUBE})(?![\w-])")
# "ID", "YID", "ID_30.000", "ID_30000_40000", "ID_30", with or without a folder and an ending
_YOUTUBE_NAME = re.compile(rf"^Y?({_YOUTUBE})(?:_\d+(?:\.\d+)?){{0,2}}$")


def freesound_id(name: str, corpus: str | None = None) -> str | None:
    """`freesound:<number>` of a URL of freesound.org or of a file name of `corpus`; None if it has none.

    Corpora whose names carry the id: esc50, urbansound8k, fsd50k, wavcaps_freesound. Clotho's do not: its metadata give
    the number, which is right as a URL `freesound.org/people/<user>/sounds/<number>`.
    """
    found = _FREESOUND_URL.search(name)
    if found is None and corpus is not None:
        if corpus not in _FREESOUND_NAMES:
            raise ValueError(f"no Freesound names known for corpus {corpus!r}; there are {sorted(_FREESOUND_NAMES)}")
        found = _FREESOUND_NAMES[corpus].match(_stem(name))
    return f"freesound:{int(found[1])}" if found else None


def youtube_id(name: str) -> str | None:
    """`youtube:<11 characters>` of a URL or a file name as AudioSet, AudioCaps and VGGSound are stored; else None."""
    found = _YOUTUBE_URL.search(name) or _YOUTUBE_NAME.match(_stem(name))
    return f"youtube:{found[1]}" if found else None


def overlap_by_source(
    clip_ids: Sequence[str],
    source_ids: Sequence[str | None],
    evaluation: Mapping[str, Mapping[str, str]],
) -> pa.Table:
    """EXCLUDED rows for clips cut from the recording of an evaluation clip; one row per clip and evaluation set.

    Args:
        source_ids: per clip as `freesound_id` or `youtube_id` give them; None is never an overlap.
        evaluation: per evaluation set, source id -> a clip of it.
    """
    if len(clip_ids) != len(source_ids):
        raise ValueError(f"{len(clip_ids)} clips and {len(source_ids)} source ids")
    rows = [
        (clip_id, name, clips[source], f"cut from {source}, as is {clips[source]} of {name}", None)
        for name, clips in sorted(evaluation.items())
        for clip_id, source in zip(clip_ids, source_ids, strict=True)
        if source is not None and source in clips
    ]
    return _table(rows)


def overlap_by_embedding(
    clip_ids: Sequence[str],
    audio_AD: np.ndarray,
    evaluation_set: str,
    evaluation_ids: Sequence[str],
    evaluation_ED: np.ndarray,
    *,
    threshold: float = 0.99,
) -> pa.Table:
    """EXCLUDED rows for clips whose cosine to an evaluation clip exceeds `threshold`; the nearest one is named."""
    for ids, rows, name in ((clip_ids, audio_AD, "pool"), (evaluation_ids, evaluation_ED, evaluation_set)):
        if len(ids) != len(rows):
            raise ValueError(f"{name}: {len(ids)} ids and {len(rows)} embeddings")
    nearest: dict[int, tuple[float, int]] = {}
    for clip_P, evaluation_P, similarity_P in match_tiles(audio_AD, evaluation_ED, threshold):
        for clip, other, value in zip(clip_P.tolist(), evaluation_P.tolist(), similarity_P.tolist(), strict=True):
            if value > np.float32(threshold) and (-value, other) < nearest.get(clip, (1.0, 0)):
                nearest[clip] = (-value, other)
    found = []
    for clip, (negative, other) in sorted(nearest.items()):
        reason = f"cosine {-negative:.4f} with {evaluation_ids[other]} of {evaluation_set} (above {threshold:g})"
        found.append((clip_ids[clip], evaluation_set, evaluation_ids[other], reason, -negative))
    return _table(found)


def merge_excluded(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows, sorted by clip and evaluation set; a clip may stand in several."""
    joined = pa.concat_tables([EXCLUDED.empty_table(), *tables])
    return joined.sort_by([("clip_id", "ascending"), ("evaluation_set", "ascending"), ("reason", "ascending")])


def as_rejects(excluded: pa.Table, stage: str = "decontaminate") -> pa.Table:
    """REJECTS rows: one per clip, with all its reasons."""
    reasons: dict[str, list[str]] = {}
    for clip_id, reason in zip(excluded["clip_id"].to_pylist(), excluded["reason"].to_pylist(), strict=True):
        reasons.setdefault(clip_id, []).append(reason)
    rows = [
        {"clip_id": clip_id, "stage": stage, "outcome": OUTCOME, "reason": "; ".join(found)}
        for clip_id, found in reasons.items()
    ]
    return pa.Table.from_pylist(rows, schema=REJECTS)


def _table(rows: Sequence[tuple]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(EXCLUDED.names, row, strict=True)) for row in rows], schema=EXCLUDED)


def _stem(name: str) -> str:
    """The file name without folder and audio ending; identifiers may hold dots."""
    return re.sub(
        r"\.(wav|flac|mp3|ogg|opus|m4a|mp4|webm)$", "", name.replace("\\", "/").rsplit("/", 1)[-1], flags=re.I
    )
