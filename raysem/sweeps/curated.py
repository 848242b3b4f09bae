"""Curated sets in numbers: of an Improvement-Set on disk, and of many rules at once in one pass over the stored pairs.

Rules that differ in `similarity_threshold` alone cost hardly more than one of them: the pairs that pass all else are
sorted by their similarity, and a threshold is a place in that order. The pass counts what `SelectShards` would keep.
"""

# Shapes: P pairs of a shard, K those that pass all rules but the threshold, C clips of a shard, T thresholds.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysem import config, storage
from raysem.curation.neighbour_means import clip_means
from raysem.curation.selection import PoolFacts, ScoredPairs, SelectionSettings, select_pairs
from raysem.ledger import Ledger
from raysem.text.prompts import clean_label

LOWEST = -1.0


@dataclass(frozen=True)
class CuratedCounts:
    """Sums over the pairs of a curated set; `judged` are those that hidden labels can judge, `right` those they bear
    out."""

    pairs: int = 0
    clips: int = 0
    similarity_sum: float = 0.0
    judged: int = 0
    right: int = 0

    def __add__(self, other: CuratedCounts) -> CuratedCounts:
        return CuratedCounts(
            self.pairs + other.pairs,
            self.clips + other.clips,
            self.similarity_sum + other.similarity_sum,
            self.judged + other.judged,
            self.right + other.right,
        )

    def to_json(self) -> dict[str, float | None]:
        """The facts of a trial: pairs, clips, mean_similarity (None without pairs), precision (None without labels)."""
        return {
            "pairs": self.pairs,
            "clips": self.clips,
            "mean_similarity": self.similarity_sum / self.pairs if self.pairs else None,
            "precision": self.right / self.judged if self.judged else None,
        }


class LabelJudge:
    """Whether a pair shares a label, by the hidden labels of clips and the labels that captions were written for."""

    def __init__(self, captions: storage.Location, wild: storage.Location):
        """
        Args:
            captions, wild: the folders of the pool of captions and of the clips' part.
        """
        self._of_caption = _label_sets(storage.join(captions, "caption_labels.parquet"), "caption_id")
        self._of_clip = _label_sets(storage.join(wild, "clip_labels.parquet"), "clip_id")

    def judge(self, clip_P: pa.DictionaryArray, caption_P: pa.DictionaryArray) -> tuple[np.ndarray, np.ndarray]:
        """(known_P, right_P); without any labels nothing is known."""
        if not self._of_clip or not self._of_caption:
            nothing_P = np.zeros(len(clip_P), bool)
            return nothing_P, nothing_P
        clips = [self._of_clip.get(name, frozenset()) for name in clip_P.dictionary.to_pylist()]
        captions = [self._of_caption.get(name, frozenset()) for name in caption_P.dictionary.to_pylist()]
        clip_code_P, caption_code_P = _codes(clip_P), _codes(caption_P)
        known_P = np.array([bool(labels) for labels in clips], bool)[clip_code_P]
        known_P &= np.array([bool(labels) for labels in captions], bool)[caption_code_P]
        right_P = np.zeros(len(clip_P), bool)
        for place in np.flatnonzero(known_P):
            right_P[place] = not clips[clip_code_P[place]].isdisjoint(captions[caption_code_P[place]])
        return known_P, right_P


def count_improvement_set(folder: storage.Location, judge: LabelJudge | None) -> CuratedCounts:
    """The Improvement-Set that a selection has left in `folder`."""
    total = CuratedCounts()
    for file in Ledger(folder).files():
        table = storage.read_table(file, ["clip_id", "captions"])
        if not len(table):
            continue
        captions = table["captions"].combine_chunks()
        pairs = captions.flatten()
        clip_P = table["clip_id"].combine_chunks().take(pc.list_parent_indices(captions))
        similarity_P = pc.struct_field(pairs, "similarity").to_numpy(zero_copy_only=False)
        known_P = right_P = np.zeros(len(pairs), bool)
        if judge is not None:
            caption_P = pc.struct_field(pairs, "caption_id")
            known_P, right_P = judge.judge(clip_P.dictionary_encode(), caption_P.dictionary_encode())
        total += CuratedCounts(
            pairs=len(pairs),
            clips=len(table),
            similarity_sum=float(np.sum(similarity_P, dtype=np.float64)),
            judged=int(known_P.sum()),
            right=int((known_P & right_P).sum()),
        )
    return total


def count_rules(
    pairs: storage.Location,
    rules: Sequence[SelectionSettings],
    facts_of: Callable[[SelectionSettings], PoolFacts],
    *,
    judge: LabelJudge | None = None,
    excluded: storage.Location | None = None,
    neighbours: storage.Location | None = None,
) -> list[CuratedCounts]:
    """What each rule would keep of the stored pairs, in one pass over them; no rule of DS, whose pairs have no score.

    Args:
        facts_of: what a rule must know of all shards (`curation_facts.facts_for`); asked once for each group of rules
            that differ in their threshold alone.
        excluded: table of the clips that no rule sees; neighbours: for rules with a margin.
    """
    groups: dict[str, list[int]] = {}
    for place, rule in enumerate(rules):
        groups.setdefault(_group_of(rule), []).append(place)
    facts = {key: facts_of(rules[places[0]]) for key, places in groups.items()}
    left_out = None
    if excluded is not None:
        left_out = pa.array(storage.read_table(excluded, ["clip_id"])["clip_id"].to_pylist(), pa.string())
    totals = [CuratedCounts() for _ in rules]
    for file in Ledger(pairs).files():
        shard = _Shard.read(file, judge, left_out)
        if not len(shard.pairs):
            continue
        for key, places in groups.items():
            thresholds = [rules[place].similarity_threshold for place in places]
            found = shard.count(rules[places[0]], facts[key], thresholds, neighbours)
            for place, counts in zip(places, found, strict=True):
                totals[place] += counts
    return totals


def _group_of(rule: SelectionSettings) -> str:
    """Equal for rules that differ in their threshold alone; the draw of `cap_per_caption` depends on it."""
    if rule.cap_per_caption is not None:
        return config.digest(rule)
    return config.digest(rule.model_copy(update={"similarity_threshold": LOWEST}))


@dataclass(frozen=True)
class _Shard:
    """The pairs of one shard of clips, which holds all pairs of its clips."""

    name: str
    pairs: ScoredPairs
    known_P: np.ndarray
    right_P: np.ndarray
    allowed_P: np.ndarray

    @classmethod
    def read(cls, file: storage.Location, judge: LabelJudge | None, excluded: pa.Array | None) -> _Shard:
        table = storage.read_table(file)
        clip_P, caption_P = (table[name].combine_chunks().dictionary_encode() for name in ("clip_id", "caption_id"))
        nothing_P = np.zeros(len(table), bool)
        known_P, right_P = judge.judge(clip_P, caption_P) if judge is not None else (nothing_P, nothing_P)
        allowed_P = np.ones(len(table), bool)
        if excluded is not None and len(table):
            allowed_P = ~np.asarray(pc.is_in(clip_P.dictionary, value_set=excluded))[_codes(clip_P)]
        pairs = ScoredPairs(
            clip_P,
            caption_P,
            table["similarity"].to_numpy(),
            table["rank_for_clip"].to_numpy(),
            table["rank_for_caption"].to_numpy(),
        )
        return cls(storage.name_of(file), pairs, known_P, right_P, allowed_P)

    def count(
        self,
        rule: SelectionSettings,
        facts: PoolFacts,
        thresholds: Sequence[float],
        neighbours: storage.Location | None,
    ) -> list[CuratedCounts]:
        """Of `rule` with each of the thresholds."""
        if rule.margin is not None and neighbours is not None:
            means = clip_means(neighbours, self.name, rule.margin.num_neighbours)
            facts = replace(facts, clip_neighbour_similarity=means)
        if rule.cap_per_caption is None:
            rule = rule.model_copy(update={"similarity_threshold": LOWEST})
        keep_P = select_pairs(self.pairs, rule, facts).keep_P & self.allowed_P
        similarity_K = np.asarray(self.pairs.similarity, np.float32)[keep_P]
        order_K = np.argsort(similarity_K, kind="stable")
        sorted_K = similarity_K[order_K]
        known_K, right_K = self.known_P[keep_P][order_K], (self.known_P & self.right_P)[keep_P][order_K]
        code_K = _codes(self.pairs.clip_id)[keep_P]
        best_C = np.full(len(self.pairs.clip_id.dictionary), -np.inf, np.float32)
        np.maximum.at(best_C, code_K, similarity_K)
        best_C = np.sort(best_C[np.isfinite(best_C)])
        at_T = np.searchsorted(sorted_K, np.asarray(thresholds, np.float32), side="left")
        clip_at_T = np.searchsorted(best_C, np.asarray(thresholds, np.float32), side="left")
        sums_K, judged_K, rights_K = (_sums_from(column_K) for column_K in (sorted_K, known_K, right_K))
        return [
            CuratedCounts(
                pairs=len(sorted_K) - int(at),
                clips=len(best_C) - int(clip_at),
                similarity_sum=float(sums_K[at]),
                judged=int(judged_K[at]),
                right=int(rights_K[at]),
            )
            for at, clip_at in zip(at_T, clip_at_T, strict=True)
        ]


def _sums_from(column_K: np.ndarray) -> np.ndarray:
    """float64 (K + 1,): entry i is the sum of the values from place i on."""
    return np.append(np.cumsum(column_K[::-1], dtype=np.float64)[::-1], 0.0)


def _codes(column_P: pa.DictionaryArray) -> np.ndarray:
    return column_P.indices.to_numpy(zero_copy_only=False)


def _label_sets(file: storage.Location, key: str) -> Mapping[str, frozenset[str]]:
    table = storage.read_table(file, [key, "labels"])
    rows = zip(table[key].to_pylist(), table["labels"].to_pylist(), strict=True)
    return {name: frozenset(clean_label(label) for label in labels) for name, labels in rows if labels}
