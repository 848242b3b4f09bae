"""The parts that corpora play in a run: sources are read, filtered and captioned, and become one sharded clips table.

A part's folder holds `clips/` (CLIPS shards with a manifest), `captions/` (CAPTIONS shards), `rejects.parquet`, and
what is known of the labels, put aside: `caption_labels.parquet`, `clip_labels.parquet`; curation never reads them.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from raysem import config, storage
from raysem.config import Settings
from raysem.corpora.label_map import LabelMap, read_label_map
from raysem.corpora.registry import corpus_options, find_corpus, open_corpus, read_corpus, require_clips
from raysem.corpora.root_digest import digest_below, digest_of_files
from raysem.corpora.rows import STAGE, MissingPolicy, caption_id, rejects_table
from raysem.corpora.shards import read_manifest, shard_name, write_shards
from raysem.errors import ConfigError, DataError
from raysem.ontology.embedded import label_map_file
from raysem.remote import is_remote
from raysem.tables import CAPTIONS, CLIPS, REJECTS
from raysem.text.prompts import clean_label

LABEL_TEMPLATES = (
    "the sound of {label}",
    "a recording of {label}",
    "{label}",
    "{label} can be heard",
    "someone recorded {label} nearby",
)
CAPTIONS_PER_SHARD = 20_000
CAPTION_LABELS = pa.schema([("caption_id", pa.string()), ("labels", pa.list_(pa.string()))])


class CorpusSource(Settings):
    """One source of a part, and which of its clips are taken."""

    corpus: str
    """A corpus by name (`raysem corpus list`)."""
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
    """Only clips with one of these labels, in the corpus's own words; empty: all."""
    label_map: str = ""
    """A label map (`raysem.corpora.label_map`): its name or the path of a csv. The labels of this source, hidden ones
    too, become the classes that it names, and captions made from labels speak of those; `labels` above does not. Empty:
    the corpus's own words throughout."""
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

    @field_validator("label_map")
    @classmethod
    def _is_a_map(cls, named: str) -> str:
        try:
            if named:
                label_map_file(named)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return named

    @field_validator("label_templates")
    @classmethod
    def _have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        bad = [template for template in templates if "{label}" not in template]
        if bad or not templates:
            raise ValueError(f"each template needs {{label}}, got {bad or 'none'}")
        return templates

    @model_validator(mode="after")
    def _is_complete(self) -> CorpusSource:
        try:
            info = find_corpus(self.corpus)
            if not self.is_made:
                corpus_options(self.corpus, self.options)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if self.is_made and (self.root or self.options):
            raise ValueError(f"corpus {self.corpus} is made by the run: root and options have no meaning")
        if self.is_made and self.part not in info.sources:
            raise ValueError(f"part: expected one of {', '.join(info.sources)}, got {self.part!r}")
        if self.part and not self.is_made:
            raise ValueError(f"part: corpus {self.corpus} has no parts")
        if not self.root and not self.is_made:
            raise ValueError(f"root: is needed for corpus {self.corpus}")
        return self

    @model_serializer(mode="wrap")
    def _silent_without_a_map(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves an empty `label_map` out: recipes keep the digests that they had before there were maps."""
        content = handler(self)
        return content if self.label_map else {key: value for key, value in content.items() if key != "label_map"}

    @property
    def is_made(self) -> bool:
        """Whether the run makes this corpus, where others are read from a root."""
        return find_corpus(self.corpus).make is not None

    def read_from(self, made: storage.Location) -> CorpusSource:
        """This source as it can be read: a part of a corpus that is made becomes a table of the folder `made`."""
        if not self.is_made:
            return self
        corpus, options = find_corpus(self.corpus).sources[self.part]
        return self.model_copy(update={"corpus": corpus, "options": options, "root": made, "part": ""})

    @property
    def is_filtered(self) -> bool:
        """Whether some clips may be left out, or captions change."""
        return bool(self.folds or self.splits or self.labels or self.share != (0.0, 1.0) or self.captions != "keep")


def identity(source: CorpusSource, digests: dict[str, str]) -> dict[str, Any]:
    """What a stage's digest says of a source: its settings, what its label map says, and the files of a local root.

    A file counts by its relative path and size, a small table by its bytes; of tables that raysem built, the manifest
    and the shards' sizes count. Of a root behind a URI only the name counts: nothing there is listed.

    Args:
        digests: of the roots listed so far; several sources of one root list it once.

    Raises:
        DataError: the label map cannot be read, or the root is not what its corpus needs.
    """
    content = config.plain(source)
    if source.label_map:
        content["label_classes"] = read_label_map(source.label_map).digest
    if not source.root or is_remote(source.root) or not Path(source.root).exists():
        return content
    files = find_corpus(source.corpus).files
    if files is None:
        if source.root not in digests:
            digests[source.root] = digest_below(source.root)
        return content | {"files": digests[source.root]}
    by_content, by_size = files(source.root, corpus_options(source.corpus, source.options))
    return content | {"files": digest_of_files(source.root, by_content, by_size)}


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
    hide_labels: bool,
) -> dict[str, Any]:
    """Write one part below `folder`; `hide_labels` takes labels and captions out of the clips table.

    Raises:
        DataError: a source is wrong, a label has no class in its map, or no clip and no caption is left.
    """
    hidden = [find_corpus(source.corpus).hidden(source.root) for source in sources]
    maps = [read_label_map(source.label_map) if source.label_map else None for source in sources]
    rejects, labels_of_clips = [REJECTS.empty_table()], [CLIPS.empty_table().select(["clip_id", "labels"])]
    texts, labels_of_captions = dict[str, dict[str, str]](), defaultdict[str, set[str]](set)

    def tables() -> Iterator[pa.Table]:
        for source, known, label_map in zip(sources, hidden, maps, strict=True):
            folds: set[int | None] = set()
            for table, captions, refused in _read(source):
                rejects.append(refused)
                folds |= set(table["fold"].unique().to_pylist())
                for row in captions.to_pylist():
                    texts.setdefault(row["caption_id"], row)
                kept = _filtered(table, source, seed)
                labels_of_clips.append(_mapped(known.of_clips(kept), label_map))
                kept = _captioned(_mapped(kept, label_map), source, seed)
                if hide_labels:
                    kept = _without(kept, ("labels", "captions"))
                else:
                    _collect_captions(kept, texts, labels_of_captions)
                yield kept
            _check_folds(source, folds)

    written = write_shards(tables(), storage.join(folder, "clips"), rows_per_shard=rows_per_shard)
    for known, label_map in zip(hidden, maps, strict=True):
        for key in texts.keys() & known.captions.keys():
            labels = known.captions[key]
            labels_of_captions[key].update(label_map.apply(labels) if label_map else labels)
    write_captions(folder, texts, labels_of_captions)
    storage.write_table(storage.join(folder, "clip_labels.parquet"), pa.concat_tables(labels_of_clips))
    refused = pa.concat_tables(rejects)
    storage.write_table(storage.join(folder, "rejects.parquet"), refused)
    if not written.rows and not texts:
        raise DataError(f"{', '.join(source.corpus for source in sources)}: no clip is left after the filters")
    return {"clips": written.rows, "shards": len(written.shards), "captions": len(texts), "rejected": len(refused)}


def write_captions(
    folder: storage.Location, texts: Mapping[str, Mapping[str, str]], labels: Mapping[str, Collection[str]]
) -> None:
    """Write `captions/` in shards and, put aside, `caption_labels.parquet`; both sorted by `caption_id`.

    Args:
        texts: rows of the captions table, by `caption_id`.
        labels: what is known of them, by `caption_id`; those without an entry have none.
    """
    ids = sorted(texts)
    for start in range(0, len(ids), CAPTIONS_PER_SHARD):
        rows = [dict(texts[key]) for key in ids[start : start + CAPTIONS_PER_SHARD]]
        location = storage.join(folder, "captions", shard_name(start // CAPTIONS_PER_SHARD))
        storage.write_table(location, pa.Table.from_pylist(rows, schema=CAPTIONS))
    known = [{"caption_id": key, "labels": sorted(labels.get(key, ()))} for key in ids]
    table = pa.Table.from_pylist(known, schema=CAPTION_LABELS)
    storage.write_table(storage.join(folder, "caption_labels.parquet"), table)


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


def _read(source: CorpusSource) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
    """(clips, captions without a clip, rejects), a piece at a time."""
    if find_corpus(source.corpus).captions is not None:
        yield read_corpus(source.corpus, source.root, source.options)
        return
    tables, check = open_corpus(source.corpus, source.root, source.options, missing=source.missing)
    for table in tables:
        yield table, CAPTIONS.empty_table(), REJECTS.empty_table()
    require_clips(check, source.corpus, source.root)
    yield CLIPS.empty_table(), CAPTIONS.empty_table(), rejects_table(check.rejects, STAGE)


def _check_folds(source: CorpusSource, found: Collection[int | None]) -> None:
    """DataError where the folds that a source names are none of its clips', or some clips have no fold.

    A clip without a fold would be in no part of a cross-validation, and counted nowhere.
    """
    if not source.folds or not found:
        return
    if set(source.folds) & set(found):
        if None in found:
            raise DataError(
                f"{source.corpus} {source.root}: folds are asked for, and some clips have none (column fold)"
            )
        return
    there = sorted(fold for fold in found if fold is not None)
    known = f"its clips are in folds {', '.join(map(str, there))}" if there else "its clips have none (column fold)"
    raise DataError(f"{source.corpus} {source.root}: no clip is in fold {', '.join(map(str, source.folds))}: {known}")


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


def _mapped(table: pa.Table, label_map: LabelMap | None) -> pa.Table:
    """The table with the classes of its labels as its labels."""
    if label_map is None:
        return table
    labels = [None if names is None else label_map.apply(names) for names in table["labels"].to_pylist()]
    position = table.schema.get_field_index("labels")
    return table.set_column(position, CLIPS.field("labels"), pa.array(labels, CLIPS.field("labels").type))


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


def _collect_captions(table: pa.Table, texts: dict[str, dict[str, str]], labels: dict[str, set[str]]) -> None:
    for row in table.select(["captions", "labels", "source"]).to_pylist():
        for text in row["captions"] or ():
            key = caption_id(text)
            found = {"caption_id": key, "text": " ".join(text.split()), "source": row["source"] or ""}
            texts.setdefault(key, found)
            labels[key].update(row["labels"] or ())


def _without(table: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        position = table.schema.get_field_index(name)
        table = table.set_column(position, CLIPS.field(name), pa.nulls(len(table), CLIPS.field(name).type))
    return table
