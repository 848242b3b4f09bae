"""Scored pairs and Improvement-Sets, a shard at a time: scored pairs -> ranks -> the clips that are kept.

Each class makes one shard from files alone, so that any process of a cluster may do it, again if need be. No Ray here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysem import storage
from raysem.corpora.rows import caption_id
from raysem.curation.neighbour_means import caption_means, clip_means
from raysem.curation.ranking import rank_over_shards
from raysem.curation.selection import PoolFacts, ScoredPairs, SelectionSettings, select_pairs
from raysem.curation.statistics import quantile_similarity
from raysem.ledger import DoneRecord, Ledger
from raysem.tables import IMPROVEMENT_SET, KEPT, SCORED_PAIRS

log = logging.getLogger(__name__)


def rank_pairs(scored: storage.Location, output: storage.Location, num_captions: int) -> dict[str, Any]:
    """Add `rank_for_caption` to the pairs of `MatchShards` and write the final SCORED_PAIRS shards; returns counts."""
    before, after = Ledger(scored), Ledger(output)
    names = sorted(before.records())

    def columns() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for name in names:
            table = storage.read_table(before.file_of(name), ["caption_index", "similarity"])
            yield table["caption_index"].to_numpy(), table["similarity"].to_numpy()

    ranks = rank_over_shards(columns, num_captions)
    pairs = 0
    for name, rank in zip(names, ranks, strict=True):
        table = storage.read_table(before.file_of(name)).drop_columns(["caption_index"])
        table = table.append_column("rank_for_caption", pa.array(rank, pa.int32())).select(SCORED_PAIRS.names)
        after.finish(DoneRecord(name, len(table), {KEPT: len(table)}), {"shards": table.cast(SCORED_PAIRS)})
        pairs += len(table)
    return {"pairs": pairs, "shards": len(names)}


@dataclass(frozen=True)
class CaptionTexts:
    """The text of each caption."""

    text_of: Mapping[str, str]

    @classmethod
    def read(cls, files: Sequence[storage.Location]) -> CaptionTexts:
        """From the shards of a captions table."""
        table = pa.concat_tables([storage.read_table(file, ["caption_id", "text"]) for file in files])
        return cls(dict(zip(table["caption_id"].to_pylist(), table["text"].to_pylist(), strict=True)))


class SelectShards:
    """The Improvement-Set of one shard of clips: each clip with the captions that the rule keeps."""

    def __init__(
        self,
        *,
        pairs: storage.Location,
        clips: Mapping[str, storage.Location],
        captions: Sequence[storage.Location],
        settings: SelectionSettings,
        facts: PoolFacts,
        teacher: str,
        excluded: storage.Location | None = None,
        neighbours: storage.Location | None = None,
        materialize_audio: bool = False,
    ):
        self._pairs, self._clips, self._settings = Ledger(pairs), dict(clips), settings
        self._facts, self._teacher, self._materialize = facts, teacher, materialize_audio
        self._neighbours = neighbours
        self._texts = CaptionTexts.read(captions).text_of
        self._excluded: set[str] = set()
        if excluded is not None:
            self._excluded = set(storage.read_table(excluded, ["clip_id"])["clip_id"].to_pylist())

    def __call__(self, shard: str) -> tuple[DoneRecord, dict[str, pa.Table]]:
        table = storage.read_table(self._pairs.file_of(shard))
        pairs = ScoredPairs(
            table["clip_id"].combine_chunks(),
            table["caption_id"].combine_chunks(),
            table["similarity"].to_numpy(),
            table["rank_for_clip"].to_numpy(),
            table["rank_for_caption"].to_numpy(),
        )
        chosen = select_pairs(pairs, self._settings, self._facts_of(shard))
        keep = chosen.keep_P
        if self._excluded:
            keep = keep & ~pc.is_in(table["clip_id"], value_set=pa.array(sorted(self._excluded))).to_numpy()
        kept = table.filter(pa.array(keep)).sort_by([("clip_id", "ascending"), ("similarity", "descending")])
        captions: dict[str, list[dict[str, Any]]] = {}
        for row in kept.select(["clip_id", "caption_id", "similarity"]).to_pylist():
            entry = {"caption_id": row["caption_id"], "text": self._texts[row["caption_id"]]}
            captions.setdefault(row["clip_id"], []).append(entry | {"similarity": row["similarity"]})
        ids = pa.array(list(captions), pa.string())
        clips = storage.read_table(self._clips[shard], ["clip_id", "audio", "start_seconds", "duration_seconds"])
        clips = clips.take(pc.index_in(ids, value_set=clips["clip_id"].combine_chunks()))
        if self._materialize:
            clips = clips.set_column(1, "audio", pa.array([_with_bytes(row) for row in clips["audio"].to_pylist()]))
        count = len(ids)
        columns = [
            *(clips[name] for name in ("clip_id", "audio", "start_seconds", "duration_seconds")),
            pa.array(list(captions.values()), IMPROVEMENT_SET.field("captions").type),
            pa.array([self._settings.strategy] * count),
            pa.array([chosen.rule] * count),
            pa.array([chosen.threshold] * count, pa.float32()),
            pa.array([self._teacher] * count),
        ]
        outcomes = Counter({"pairs_kept": len(kept), "pairs_left": len(table) - len(kept)})
        result = pa.table(
            [pa.chunked_array([c]) if isinstance(c, pa.Array) else c for c in columns], IMPROVEMENT_SET.names
        )
        return DoneRecord(shard, count, outcomes), {"shards": result.cast(IMPROVEMENT_SET)}

    def _facts_of(self, shard: str) -> PoolFacts:
        """With what is known of this shard's clips alone, so that no worker holds the facts of all clips."""
        margin = self._settings.margin
        if margin is None or self._neighbours is None:
            return self._facts
        return replace(
            self._facts, clip_neighbour_similarity=clip_means(self._neighbours, shard, margin.num_neighbours)
        )


def annotated_pairs(
    clips: storage.Location, settings: SelectionSettings, similarity_of: Mapping[str, float], teacher: str
) -> pa.Table:
    """DS on one shard of captioned clips: each clip with those of its own captions that the domain keeps.

    Args:
        similarity_of: caption_id -> highest cosine to a label of the domain, for the captions that are kept.
    """
    rows = []
    columns = ["clip_id", "audio", "start_seconds", "duration_seconds", "captions"]
    rule = f"DS: caption within {settings.caption_threshold:g} of a label"
    for row in storage.read_table(clips, columns).to_pylist():
        kept = [(caption_id(text), text) for text in row["captions"] or ()]
        captions = [
            {"caption_id": key, "text": text, "similarity": similarity_of[key]}
            for key, text in kept
            if key in similarity_of
        ]
        if captions:
            about = {"strategy": "DS", "rule": rule, "threshold": settings.caption_threshold, "teacher": teacher}
            rows.append({**row, "captions": captions, **about})
    return pa.Table.from_pylist(rows, schema=IMPROVEMENT_SET)


def pool_facts(
    pairs: storage.Location,
    settings: SelectionSettings,
    kept_captions: frozenset[str] | None,
    neighbours: storage.Location | None = None,
) -> PoolFacts:
    """What the rules of `settings` must know of all shards: a pass over the columns they need (two for a quantile).

    Mutual neighbours need nothing more: a pair above the floor has the rank among all captions (clips), since
    whatever is nearer lies above the floor too. The clips' part of `margin` comes shard by shard in `SelectShards`.
    """
    counts: Counter[str] = Counter()
    at_quantile: float | None = None
    means: dict[str, float] = {}
    if settings.quantile is not None:
        at_quantile = quantile_similarity(
            lambda: (table["similarity"].to_numpy() for table in _columns(pairs, ["similarity"])), settings.quantile
        )
    if settings.cap_per_caption is not None:
        threshold = max(settings.similarity_threshold, at_quantile if at_quantile is not None else -1.0)
        for table in _columns(pairs, ["caption_id", "similarity"]):
            counts.update(dict.fromkeys(table["caption_id"].unique().to_pylist(), 0))  # none above is a count too
            above = table.filter(pc.greater_equal(table["similarity"], np.float32(threshold)))
            values = pc.value_counts(above["caption_id"]).to_pylist()
            counts.update({value["values"]: value["counts"] for value in values})
    if settings.margin is not None:
        if neighbours is None:
            raise ValueError("margin needs the neighbour tables")
        means = caption_means(neighbours, settings.margin.num_neighbours)
    return PoolFacts(kept_captions, counts, at_quantile, caption_neighbour_similarity=means)


def _columns(pairs: storage.Location, names: list[str]) -> Iterator[pa.Table]:
    for file in Ledger(pairs).files():
        yield storage.read_table(file, names)


def _with_bytes(audio: Mapping[str, Any]) -> dict[str, Any]:
    content = audio.get("bytes")
    return {"bytes": content if content is not None else storage.read_bytes(audio["path"]), "path": audio["path"]}
