"""What a corpus reader yields, the checks on it, and its way into the clips and captions tables.

A reader yields `ClipRow`s (or `CaptionRow`s) one by one and holds no table. A mistake of the corpus (an id twice, a
fold that is no fold) stops the build with the file and the row; a file that cannot be had is a reject, not a mistake,
where `missing="reject"`.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

from raysem.errors import DataError
from raysem.tables import CAPTIONS, CLIPS, REJECTS, RejectOutcome

MissingPolicy = Literal["error", "reject", "keep"]
STAGE = "corpora"
"""The `stage` of the rejects that come from reading a corpus."""


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One clip as a corpus describes it. Audio is `path` (a location) or `content` (bytes, `path` then only a name)."""

    clip_id: str
    source: str
    place: str
    """Where the corpus says so: file and line, row or member. For messages."""
    path: str | None = None
    content: bytes | None = None
    start_seconds: float | None = None
    duration_seconds: float | None = None
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fold: int | None = None
    split: str | None = None
    problem: tuple[RejectOutcome, str] | None = None
    """Outcome and reason of a clip that is described but cannot be had."""


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One caption text of a corpus."""

    text: str
    source: str
    place: str


def normalise_caption(text: str) -> str:
    """The form in which two captions count as one text: NFKC, lower case, single spaces, no full stop at the end."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(words).rstrip(" .")


def caption_id(text: str) -> str:
    """The id of a caption: the first 16 hex digits of the SHA-256 of its normalised text; the same in every corpus."""
    return hashlib.sha256(normalise_caption(text).encode()).hexdigest()[:16]


def captions_table(rows: Iterable[CaptionRow]) -> pa.Table:
    """The captions table: one row per distinct normalised text, as first written, sorted by `caption_id`."""
    first: dict[str, CaptionRow] = {}
    for row in rows:
        if normalise_caption(row.text):
            first.setdefault(caption_id(row.text), row)
    ids = sorted(first)
    columns = [ids, [" ".join(first[key].text.split()) for key in ids], [first[key].source for key in ids]]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=CAPTIONS)


def clips_table(rows: Sequence[ClipRow]) -> pa.Table:
    """The rows as a table with the schema CLIPS, in the order given."""
    columns = {
        "clip_id": [row.clip_id for row in rows],
        "audio": [{"bytes": row.content, "path": row.path} for row in rows],
        "start_seconds": [row.start_seconds for row in rows],
        "duration_seconds": [row.duration_seconds for row in rows],
        "captions": [list(row.captions) for row in rows],
        "labels": [list(row.labels) for row in rows],
        "fold": [row.fold for row in rows],
        "split": [row.split for row in rows],
        "source": [row.source for row in rows],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in CLIPS], schema=CLIPS)


def rejects_table(rejects: Iterable[tuple[str, str, str]], stage: str) -> pa.Table:
    """The rejects table from (clip_id, outcome, reason), sorted by `clip_id`."""
    rows = [
        {"clip_id": clip_id, "stage": stage, "outcome": outcome, "reason": reason}
        for clip_id, outcome, reason in sorted(rejects)
    ]
    return pa.Table.from_pylist(rows, schema=REJECTS)


class RowCheck:
    """Checks rows as they pass and sorts out those that cannot be had; `rejects` and `captions` fill meanwhile.

    Ids seen are kept: about 250 bytes a clip. `rejects` is a list of (clip_id, outcome, reason).
    """

    def __init__(self, *, missing: MissingPolicy = "error"):
        if missing not in get_args(MissingPolicy):
            raise DataError(f"missing: expected one of {get_args(MissingPolicy)}, got {missing!r}")
        self.missing = missing
        self.rejects: list[tuple[str, str, str]] = []
        self.captions: dict[str, CaptionRow] = {}
        self.num_clips = 0
        self._first_place: dict[str, str] = {}

    def passed(self, rows: Iterable[ClipRow]) -> Iterator[ClipRow]:
        """The rows that can be used, in order.

        Raises:
            DataError: a row is wrong in itself, or its audio is missing and the policy is "error".
        """
        for row in rows:
            check_clip(row)
            if row.clip_id in self._first_place:
                first = self._first_place[row.clip_id]
                raise DataError(f"{row.place}: clip_id {row.clip_id!r} was already used at {first}; ids must be unique")
            self._first_place[row.clip_id] = row.place
            if row.problem is not None and not (row.problem[0] == "missing" and self.missing == "keep"):
                outcome, reason = row.problem
                if outcome == "missing" and self.missing == "error":
                    raise DataError(f"{row.place}: {reason} (clips without a file can be put aside: missing=reject)")
                self.rejects.append((row.clip_id, outcome, reason))
                continue
            for text in row.captions:
                self.captions.setdefault(caption_id(text), CaptionRow(text, row.source, row.place))
            self.num_clips += 1
            yield row

    def tables(self, rows: Iterable[ClipRow], *, max_rows: int = 1024, max_mib: float = 32) -> Iterator[pa.Table]:
        """The usable rows as CLIPS tables of at most `max_rows` rows and about `max_mib` of audio bytes."""
        batch: list[ClipRow] = []
        num_bytes = 0
        for row in self.passed(rows):
            batch.append(row)
            num_bytes += len(row.content or b"")
            if len(batch) >= max_rows or num_bytes >= max_mib * 2**20:
                yield clips_table(batch)
                batch, num_bytes = [], 0
        if batch:
            yield clips_table(batch)


def check_clip(row: ClipRow) -> None:
    """DataError with file and row if a value of the row cannot be right whatever the corpus."""
    if not row.clip_id.strip() or any(unicodedata.category(character) == "Cc" for character in row.clip_id):
        raise DataError(f"{row.place}: clip_id {row.clip_id!r} is empty or has control characters")
    if row.path is None and row.content is None and row.problem is None:
        raise DataError(f"{row.place}: clip {row.clip_id!r} has neither audio bytes nor a path")
    start, duration = row.start_seconds, row.duration_seconds
    if start is not None and not (math.isfinite(start) and start >= 0):
        raise DataError(f"{row.place}: start_seconds is {start}, expected a number of at least 0")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise DataError(f"{row.place}: duration_seconds is {duration}, expected a number above 0")
    if row.fold is not None and not 0 <= row.fold < 2**31:
        raise DataError(f"{row.place}: fold is {row.fold}, expected a number from 0")
