"""Tables that raysem built or packed, read again as corpora; and the labels that may lie hidden beside them.

Layout: `clips/` (or the root itself) with its shards and manifest.json, or `<part>/clips` where a corpus has parts, as
the synthetic one; `captions.parquet`; and at the root, where the truth is known and must not be seen:

    hidden_labels.parquet           clip_id, labels
    hidden_caption_labels.parquet   caption_id, labels; the ids of captions.parquet, or those of the texts themselves

Hidden labels stand in no table that curation reads: they only measure its precision.
Licence and folds: those of the corpora inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import CaptionRow, ClipRow, caption_id
from raysem.corpora.shards import MANIFEST, ShardManifest, read_manifest
from raysem.corpora.sources import open_parquet, require_folder
from raysem.errors import DataError
from raysem.tables import CAPTIONS, CLIPS, conform

CLIPS_NEED = "clips/ with shards and manifest.json, from `raysem corpus build` or `raysem corpus pack`"
CAPTIONS_NEED = "captions.parquet, from `raysem corpus build`"
CAPTIONS_FILE = "captions.parquet"
HIDDEN_LABELS_FILE = "hidden_labels.parquet"
HIDDEN_CAPTION_LABELS_FILE = "hidden_caption_labels.parquet"
ROWS_PER_READ = 64
"""Rows in memory at once; they may hold the audio bytes."""

_CLIP_LABELS = pa.schema([("clip_id", pa.string()), ("labels", pa.list_(pa.string()))])
_CAPTION_LABELS = pa.schema([("caption_id", pa.string()), ("labels", pa.list_(pa.string()))])


class ClipsTableOptions(Settings):
    """Which clips of a folder."""

    part: str = ""
    """The folder below the root that holds `clips/`, where a corpus has several: `wild` of the synthetic one."""


class CaptionsTableOptions(Settings):
    """Options of a captions table: none."""


def read_clips_table(root: str, options: ClipsTableOptions | None = None) -> Iterator[ClipRow]:
    """The clips shard by shard, sorted by `clip_id`; labels that are hidden are not among theirs."""
    for file in _manifest(root, options or ClipsTableOptions()).files:
        number = 0
        with open_parquet(file) as shard:
            for batch in shard.iter_batches(batch_size=ROWS_PER_READ):
                for values in conform(pa.Table.from_batches([batch]), CLIPS, file).to_pylist():
                    audio = values["audio"] or {"bytes": None, "path": None}
                    yield ClipRow(
                        clip_id=values["clip_id"] or "",
                        source=values["source"] or "",
                        place=f"{file} row {number}",
                        path=audio["path"],
                        content=audio["bytes"],
                        start_seconds=values["start_seconds"],
                        duration_seconds=values["duration_seconds"],
                        captions=tuple(values["captions"] or ()),
                        labels=tuple(values["labels"] or ()),
                        fold=values["fold"],
                        split=values["split"],
                    )
                    number += 1


def read_captions_table(root: str, options: CaptionsTableOptions | None = None) -> Iterator[CaptionRow]:
    """The captions in the order of the table."""
    location = storage.join(require_folder(root, CAPTIONS_NEED), CAPTIONS_FILE)
    if not storage.exists(location):
        raise DataError(f"{location}: no such file; at this root there must be {CAPTIONS_NEED}")
    table = conform(storage.read_table(location), CAPTIONS, location)
    for number, row in enumerate(table.to_pylist()):
        yield CaptionRow(row["text"] or "", row["source"] or "", f"{location} row {number}")


def clips_table_files(root: str, options: ClipsTableOptions) -> tuple[list[str], list[str]]:
    """What a digest must follow: files by their content, and shards, whose content the manifest vouches for, by size.

    The audio files that a table refers to are not among them; packed, they are in the shards.
    """
    manifest = _manifest(root, options)
    return [storage.join(manifest.location, MANIFEST), *_beside(root)], manifest.files


def captions_table_files(root: str, options: CaptionsTableOptions) -> tuple[list[str], list[str]]:
    """What a digest must follow, as of a clips table."""
    return _beside(root), []


def _beside(root: str) -> list[str]:
    names = (CAPTIONS_FILE, HIDDEN_LABELS_FILE, HIDDEN_CAPTION_LABELS_FILE)
    locations = [storage.join(storage.absolute(root), name) for name in names]
    return [location for location in locations if storage.exists(location)]


def _manifest(root: str, options: ClipsTableOptions) -> ShardManifest:
    location = require_folder(root, CLIPS_NEED)
    try:
        return read_manifest(storage.join(location, options.part) if options.part else location)
    except DataError as error:
        raise DataError(f"{error}; at this root there must be {CLIPS_NEED}") from None


@dataclass(frozen=True)
class HiddenLabels:
    """What the clips and captions of a corpus really are, put aside to measure precision."""

    clips: pa.Table
    """clip_id, labels; a clip that is not in it has only the labels that its table shows."""
    captions: Mapping[str, tuple[str, ...]]
    """By the `caption_id` of the text."""

    def of_clips(self, table: pa.Table) -> pa.Table:
        """clip_id and labels of every clip of a clips table, in its order: the hidden ones where there are such."""
        rows = pa.array([self._row_of.get(clip_id) for clip_id in table["clip_id"].to_pylist()], pa.int64())
        hidden, shown = self.clips["labels"].combine_chunks().take(rows), table["labels"].combine_chunks()
        return pa.table([table["clip_id"], pc.if_else(rows.is_valid(), hidden, shown)], schema=_CLIP_LABELS)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {clip_id: row for row, clip_id in enumerate(self.clips["clip_id"].to_pylist())}


def no_hidden_labels() -> HiddenLabels:
    """Those of a corpus that has none."""
    return HiddenLabels(_CLIP_LABELS.empty_table(), {})


def read_hidden_labels(root: str) -> HiddenLabels:
    """The hidden labels at a root; empty where it has none."""
    clips, captions = no_hidden_labels().clips, dict[str, tuple[str, ...]]()
    location = storage.join(storage.absolute(root), HIDDEN_LABELS_FILE)
    if storage.exists(location):
        clips = conform(storage.read_table(location, _CLIP_LABELS.names), _CLIP_LABELS, location)
    location = storage.join(storage.absolute(root), HIDDEN_CAPTION_LABELS_FILE)
    if storage.exists(location):
        texts_at = storage.join(storage.absolute(root), CAPTIONS_FILE)
        texts = storage.read_table(texts_at, ["caption_id", "text"]).to_pylist() if storage.exists(texts_at) else []
        id_of = {row["caption_id"]: caption_id(row["text"]) for row in texts}
        for row in storage.read_table(location, _CAPTION_LABELS.names).to_pylist():
            captions[id_of.get(row["caption_id"], row["caption_id"])] = tuple(row["labels"] or ())
    return HiddenLabels(clips, captions)


def write_hidden_labels(root: str, hidden: HiddenLabels) -> None:
    """Put labels aside at a root, for `read_hidden_labels`; none leave no file."""
    captions = [{"caption_id": key, "labels": list(labels)} for key, labels in sorted(hidden.captions.items())]
    tables = {
        HIDDEN_LABELS_FILE: hidden.clips,
        HIDDEN_CAPTION_LABELS_FILE: pa.Table.from_pylist(captions, schema=_CAPTION_LABELS),
    }
    for name, table in tables.items():
        location = storage.join(root, name)
        if len(table):
            storage.write_table(location, table)
        else:
            storage.delete(location)
