"""The parts that corpora play in a run: sources are read, filtered and captioned, and become one sharded clips table.

A part's folder holds `clips/` (CLIPS shards with a manifest), `captions/` (CAPTIONS shards), `rejects.parquet`, and
what is known of the labels, put aside: `caption_labels.parquet`, `clip_labels.parquet`; curation never reads them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from raysem import config, storage
from raysem.config import Settings
from raysem.corpora.registry import corpus_options, find_corpus, open_corpus, read_corpus, require_clips
from raysem.corpora.rows import STAGE, MissingPolicy, caption_id, rejects_table
from raysem.corpora.shards import read_manifest, write_shards
from raysem.errors import ConfigError, DataError
from raysem.tables import CAPTIONS, CLIPS, REJECTS, conform
from raysem.text.prompts import clean_label

SYNTHETIC = "synthetic"
SYNTHETIC_PARTS = ("teacher", "held_out", "wild", "test", "captions")
CLIPS_TABLE = "clips_table"
LABEL_TEMPLATES = (
    "the sound of {label}",
    "a recording of {label}",
    "{label}",
    "{label} can be heard",
    "someone recorded {label} nearby",
)
CAPTIONS_PER_SHARD = 20_000
HASHED_FILE_BYTES = 16 * 2**20


class CorpusSource(Settings):
    """One source of a part, and which of its clips are taken."""

    corpus: str
    """A corpus by name (`raysem corpus list`); `synthetic`; or `clips_table`, a folder that raysem built or packed."""
    root: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    """The corpus reader's own options."""
    part: str = ""
    """For `synthetic`: teacher, held_out, wild, test or captions."""
    folds: tuple[int, ...] = ()
    """Only these folds; empty: all."""
    splits: tuple[str, ...] = ()
    """Only these splits; empty: all."""
    labels: tuple[str, ...] = ()
    """Only clips with one of these labels; empty: all."""
    share: tuple[float, float] = (0.0, 1.0)
    """Only clips whose place in [0, 1), drawn from (seed, clip or group), lies in this range: parts with ranges that do
    not touch have no clip in common."""
    group_pattern: str = ""
    """Regular expression; what its first group finds in a clip_id is kept together by `share` (one recording, say)."""
    captions: Literal["keep", "labels", "none"] = "keep"
    """`labels`: captions are made from the labels with `label_templates`."""
    label_templates: tuple[str, ...] = LABEL_TEMPLATES
    captions_per_clip: int = Field(0, ge=0)
    """With `captions: labels`: how many templates a clip gets, drawn for each clip; 0: all."""
    missing: MissingPolicy = "keep"
    """A clip without its file: an error, a reject at once, or kept until decoding finds it missing."""

    @field_validator("share")
    @classmethod
    def _is_a_range(cls, share: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= share[0] < share[1] <= 1:
            raise ValueError(f"expected [low, high] with 0 <= low < high <= 1, got {list(share)}")
        return share

    @field_validator("group_pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if pattern and groups < 1:
            raise ValueError("needs a group in parentheses")
        return pattern

    @field_validator("label_templates")
    @classmethod
    def _have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        bad = [template for template in templates if "{label}" not in template]
        if bad or not templates:
            raise ValueError(f"each template needs {{label}}, got {bad or 'none'}")
        return templates

    @model_validator(mode="after")
    def _is_complete(self) -> CorpusSource:
        if self.corpus == SYNTHETIC:
            if self.part not in SYNTHETIC_PARTS:
                raise ValueError(f"part: expected one of {', '.join(SYNTHETIC_PARTS)}, got {self.part!r}")
        elif not self.root:
            raise ValueError(f"root: is needed for corpus {self.corpus}")
        elif self.corpus != CLIPS_TABLE:
            try:
                corpus_options(self.corpus, self.options)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def is_filtered(self) -> bool:
        """Whether some clips may be left out, or captions change."""
        return bool(self.folds or self.splits or self.labels or self.share != (0.0, 1.0) or self.captions != "keep")


def identity(source: CorpusSource) -> dict[str, Any]:
    """What a stage's digest says of a source: its settings and, on a disk, the files at its root.

    A file counts by its relative path and size, a small table by its bytes. Behind a URI only the settings count:
    nothing there is listed.
    """
    content = config.plain(source)
    if not source.root or storage.is_remote(source.root) or not Path(source.root).exists():
        return content
    root, sha = Path(source.root), hashlib.sha256()
    for path in [root] if root.is_file() else _files_below(root):
        size = path.stat().st_size if path.exists() else -1
        sha.update(f"{path.relative_to(root)}\0{size}\0".encode())
        if path.suffix in (".csv", ".json", ".gz", ".tsv", ".txt") and 0 <= size <= HASHED_FILE_BYTES:
            sha.update(hashlib.sha256(path.read_bytes()).digest())
    return content | {"files": sha.hexdigest()[:16]}


def _files_below(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files))


def part_of(sources: Sequence[CorpusSource], fraction: float) -> tuple[CorpusSource, ...]:
    """The sources, of each the first `fraction` of its share: a smaller one is part of a larger one."""

    def cut(source: CorpusSource) -> CorpusSource:
        low, high = source.share
        return source.model_copy(update={"share": (low, low + (high - low) * fraction)})

    return tuple(sources) if fraction == 1 else tuple(cut(source) for source in sources)


def build_part(
    folder: storage.Location,
    sources: Sequence[CorpusSource],
    *,
    seed: int,
    rows_per_shard: int,
    synthetic: storage.Location | None,
    hide_labels: bool,
) -> dict[str, Any]:
    """Write one part below `folder`; `hide_labels` takes labels and captions out of the clips table.

    Raises:
        DataError: a source is wrong, or no clip and no caption is left.
    """
    rejects: list[pa.Table] = []
    labels_of_captions: dict[str, tuple[str, str, set[str]]] = {}
    labels_of_clips: list[pa.Table] = []

    def tables() -> Iterator[pa.Table]:
        for source in sources:
            for table, captions, refused in _read(source, synthetic):
                rejects.append(refused)
                for row in captions.to_pylist():
                    labels_of_captions.setdefault(row["caption_id"], (row["text"], row["source"], set()))
                kept = _captioned(_filtered(table, source, seed), source, seed)
                labels_of_clips.append(_known_labels(kept, source, synthetic))
                if hide_labels:
                    kept = _without(kept, ("labels", "captions"))
                else:
                    _collect_captions(kept, labels_of_captions)
                yield kept

    written = write_shards(tables(), storage.join(folder, "clips"), rows_per_shard=rows_per_shard)
    if synthetic is not None:
        _add_hidden_caption_labels(labels_of_captions, synthetic)
    ids = sorted(labels_of_captions)
    for start in range(0, len(ids), CAPTIONS_PER_SHARD):
        rows = [
            {"caption_id": key, "text": labels_of_captions[key][0], "source": labels_of_captions[key][1]}
            for key in ids[start : start + CAPTIONS_PER_SHARD]
        ]
        name = f"shard_{start // CAPTIONS_PER_SHARD:05d}.parquet"
        storage.write_table(storage.join(folder, "captions", name), pa.Table.from_pylist(rows, schema=CAPTIONS))
    known = [{"caption_id": key, "labels": sorted(labels_of_captions[key][2])} for key in ids]
    schema = pa.schema([("caption_id", pa.string()), ("labels", pa.list_(pa.string()))])
    storage.write_table(storage.join(folder, "caption_labels.parquet"), pa.Table.from_pylist(known, schema=schema))
    clip_labels = pa.concat_tables(labels_of_clips) if labels_of_clips else _without(CLIPS.empty_table(), ())
    storage.write_table(storage.join(folder, "clip_labels.parquet"), clip_labels.select(["clip_id", "labels"]))
    refused = pa.concat_tables([REJECTS.empty_table(), *rejects])
    storage.write_table(storage.join(folder, "rejects.parquet"), refused)
    if not written.rows and not ids:
        raise DataError(f"{', '.join(source.corpus for source in sources)}: no clip is left after the filters")
    return {"clips": written.rows, "shards": len(written.shards), "captions": len(ids), "rejected": len(refused)}


def clip_shards(folder: storage.Location) -> list[storage.Location]:
    """The input shards of a part."""
    return read_manifest(storage.join(folder, "clips")).files


def caption_shards(folder: storage.Location) -> list[storage.Location]:
    """The captions of a part."""
    return storage.list_files(storage.join(folder, "captions"), ".parquet")


def place_of(seed: int, group: str) -> float:
    """A number in [0, 1), the same for the same seed and group on any machine."""
    word = hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8]
    return int.from_bytes(word) / 2**64


def _read(source: CorpusSource, synthetic: storage.Location | None) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
    """(clips, captions without a clip, rejects), a piece at a time."""
    nothing = CAPTIONS.empty_table(), REJECTS.empty_table()
    if source.corpus == SYNTHETIC and synthetic is not None and source.part == "captions":
        texts = storage.read_table(storage.join(synthetic, "captions.parquet"))
        ids = pa.array([caption_id(text) for text in texts["text"].to_pylist()], pa.string())
        yield CLIPS.empty_table(), texts.set_column(0, CAPTIONS.field(0), ids), REJECTS.empty_table()
        return
    if source.corpus == SYNTHETIC:
        if synthetic is None:
            raise DataError("corpus synthetic: the recipe has no corpora.synthetic section")
        where = storage.join(synthetic, "validation" if source.part == "held_out" else source.part)
    elif source.corpus == CLIPS_TABLE:
        where = source.root
    else:
        if find_corpus(source.corpus).captions is not None:
            yield read_corpus(source.corpus, source.root, source.options)
            return
        tables, check = open_corpus(source.corpus, source.root, source.options, missing=source.missing)
        for table in tables:
            yield table, *nothing
        require_clips(check, source.corpus, source.root)
        yield CLIPS.empty_table(), CAPTIONS.empty_table(), rejects_table(check.rejects, STAGE)
        return
    for file in read_manifest(where).files:
        yield conform(storage.read_table(file), CLIPS, file), *nothing


def _add_hidden_caption_labels(found: dict[str, tuple[str, str, set[str]]], synthetic: storage.Location) -> None:
    """What the synthetic captions were written for; like a clip's hidden labels, only to measure precision."""
    texts = storage.read_table(storage.join(synthetic, "captions.parquet"), ["caption_id", "text"]).to_pylist()
    text_of = {row["caption_id"]: row["text"] for row in texts}
    hidden = storage.read_table(storage.join(synthetic, "hidden_caption_labels.parquet"), ["caption_id", "labels"])
    for row in hidden.to_pylist():
        entry = found.get(caption_id(text_of[row["caption_id"]]))
        if entry is not None:
            entry[2].update(row["labels"])


def _known_labels(table: pa.Table, source: CorpusSource, synthetic: storage.Location | None) -> pa.Table:
    """clip_id and labels; those of the synthetic pool stand in a file of their own."""
    if source.corpus != SYNTHETIC or source.part != "wild" or synthetic is None:
        return table.select(["clip_id", "labels"])
    hidden = storage.read_table(storage.join(synthetic, "hidden_labels.parquet"), ["clip_id", "labels"])
    return hidden.filter(pc.is_in(hidden["clip_id"], value_set=table["clip_id"].combine_chunks()))


def _filtered(table: pa.Table, source: CorpusSource, seed: int) -> pa.Table:
    if not source.is_filtered:
        return table
    pattern = re.compile(source.group_pattern) if source.group_pattern else None
    low, high = source.share
    wanted = set(source.labels)
    keep = []
    columns = table.select(["clip_id", "fold", "split", "labels"]).to_pylist()
    for row in columns:
        found = pattern.search(row["clip_id"]) if pattern else None
        group = found.group(1) if found else row["clip_id"]
        keep.append(
            (not source.folds or row["fold"] in source.folds)
            and (not source.splits or row["split"] in source.splits)
            and (not wanted or bool(wanted.intersection(row["labels"] or ())))
            and low <= place_of(seed, group) < high
        )
    return table.filter(pa.array(keep, pa.bool_()))


def _captioned(table: pa.Table, source: CorpusSource, seed: int) -> pa.Table:
    if source.captions == "keep":
        return table
    captions: list[list[str]] = []
    for row in table.select(["clip_id", "labels"]).to_pylist():
        texts = []
        if source.captions == "labels":
            templates = sorted(
                source.label_templates, key=lambda template: place_of(seed, f"{row['clip_id']}\0{template}")
            )[: source.captions_per_clip or None]
            texts = [
                template.replace("{label}", clean_label(label))
                for label in row["labels"] or ()
                for template in templates
            ]
        captions.append(texts)
    position = table.schema.get_field_index("captions")
    return table.set_column(position, CLIPS.field("captions"), pa.array(captions, CLIPS.field("captions").type))


def _collect_captions(table: pa.Table, found: dict[str, tuple[str, str, set[str]]]) -> None:
    for row in table.select(["captions", "labels", "source"]).to_pylist():
        for text in row["captions"] or ():
            entry = found.setdefault(caption_id(text), (" ".join(text.split()), row["source"] or "", set()))
            entry[2].update(row["labels"] or ())


def _without(table: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        position = table.schema.get_field_index(name)
        table = table.set_column(position, CLIPS.field(name), pa.nulls(len(table), CLIPS.field(name).type))
    return table
