"""What a run learns of its pairs beside the pairs themselves: the domain of captions, exclusions, statistics, samples.

Each function is one task on the cluster: it takes locations, writes files, and returns a small summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysem import storage
from raysem.curation.decontamination import as_rejects, overlap_by_embedding
from raysem.curation.deduplication import near_duplicates
from raysem.curation.embeddings import read_embeddings
from raysem.curation.hubness import skewness
from raysem.curation.neighbour_shards import Side, occurrences
from raysem.curation.pair_shards import CaptionTexts, annotated_pairs, pool_facts, rank_pairs
from raysem.curation.selection import PoolFacts, SelectionSettings
from raysem.curation.statistics import ImprovementSetCounts, PairCounts
from raysem.errors import DataError
from raysem.ledger import DoneRecord, Ledger
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.runs.roles import caption_shards, clip_shards, place_of
from raysem.tables import REJECTS
from raysem.text.prompts import PromptSettings, clean_label, prompt

DOMAIN = pa.schema([("caption_id", pa.string()), ("similarity", pa.float32()), ("label", pa.string())])
BINS = 200


def caption_domain(
    folder: storage.Location,
    captions: storage.Location,
    corpora: Sequence[storage.Location],
    model: TeacherSource,
    prompts: PromptSettings,
) -> dict[str, Any]:
    """Write `domain.parquet`: each caption's nearest label among those of the evaluation sets, and its cosine to it."""
    labels = sorted({label for corpus in corpora for label in _labels_of(corpus)})
    if not labels:
        raise DataError("curation.domain: its evaluation sets have no labels")
    label_KD = load_teacher(model, "cpu").embed_texts([prompt(label, prompts.template) for label in labels])
    ids, text_CD = read_embeddings(captions)
    nearest, similarity = [], []
    for start in range(0, len(text_CD), 4096):
        cosine_CK = text_CD[start : start + 4096].astype(np.float64) @ label_KD.astype(np.float64).T
        best = cosine_CK.argmax(axis=1)
        nearest += [labels[index] for index in best]
        similarity.append(cosine_CK[np.arange(len(best)), best].astype(np.float32))
    table = pa.table([ids.combine_chunks(), pa.array(np.concatenate(similarity)), pa.array(nearest)], schema=DOMAIN)
    storage.write_table(storage.join(folder, "domain.parquet"), table)
    return {"labels": len(labels), "captions": len(table)}


def rank_all(scored: storage.Location, output: storage.Location, captions: storage.Location) -> dict[str, Any]:
    """Add the captions' ranks to the scored pairs; an error when no pair reached the floor."""
    num_captions = sum(storage.count_rows(file) for file in Ledger(captions).files())
    counts = rank_pairs(scored, output, num_captions)
    if not counts["pairs"]:
        raise DataError("match: no pair of clip and caption reaches the floor; lower curation.similarity_threshold")
    return counts


def facts_for(
    pairs: storage.Location,
    settings: SelectionSettings,
    domain: storage.Location | None,
    neighbours: storage.Location | None = None,
) -> PoolFacts:
    """What `select_pairs` must know of all shards for these settings; `neighbours` only matters to `margin`."""
    kept = None
    if settings.strategy in ("DS", "ADS"):
        kept = frozenset(kept_captions(domain, settings.caption_threshold))
        if not kept:
            raise DataError(
                f"curation.caption_threshold {settings.caption_threshold:g}: no caption is that near to a label"
            )
    return pool_facts(pairs, settings, kept, neighbours)


def kept_captions(domain: storage.Location | None, threshold: float) -> dict[str, float]:
    """caption_id -> cosine, for the captions that DS keeps."""
    if domain is None:
        raise DataError("the strategy needs evaluation sets with labels")
    table = storage.read_table(storage.join(domain, "domain.parquet"))
    near = table.filter(pc.greater_equal(table["similarity"], np.float32(threshold)))
    return dict(zip(near["caption_id"].to_pylist(), near["similarity"].to_pylist(), strict=True))


class AnnotatedShards:
    """DS over the shards of a captioned part."""

    def __init__(
        self,
        *,
        clips: Mapping[str, storage.Location],
        domain: storage.Location,
        settings: SelectionSettings,
        teacher: str,
    ):
        self._clips, self._settings, self._teacher = dict(clips), settings, teacher
        self._similarity_of = kept_captions(domain, settings.caption_threshold)

    def __call__(self, shard: str) -> tuple[DoneRecord, dict[str, pa.Table]]:
        table = annotated_pairs(self._clips[shard], self._settings, self._similarity_of, self._teacher)
        kept = sum(len(captions) for captions in table["captions"].to_pylist())
        seen = storage.read_table(self._clips[shard], ["captions"])
        total = sum(len(captions or ()) for captions in seen["captions"].to_pylist())
        return DoneRecord(shard, len(table), {"pairs_kept": kept, "pairs_left": total - kept}), {"shards": table}


@dataclass(frozen=True, kw_only=True)
class StatisticsInputs:
    """What `statistics` reads, and how much it samples for listening."""

    pairs: storage.Location
    captions: storage.Location
    wild: storage.Location
    domain: storage.Location | None
    neighbours: storage.Location
    selections: Mapping[str, storage.Location]
    thresholds: Mapping[str, float]
    listening: str | None
    """The selection, by its name in `selections`, whose kept and left out pairs are put to the ear; None: no one's."""
    floor: float
    num_clips: int
    num_captions: int
    hubness_k: int
    per_class: int
    classes: int
    screened: storage.Location | None = None
    """Table of the clips that no selection may keep, by `clip_id`; their pairs are counted, but not listened to."""


def statistics(folder: storage.Location, inputs: StatisticsInputs) -> dict[str, Any]:
    """Write `statistics.json` (histogram, keep-rates, precision, hubness) and `listening.json` (pairs to hear)."""
    counts = PairCounts(inputs.floor, BINS)
    truth, sampler = _Truth(inputs), _Sampler(inputs)
    for file in Ledger(inputs.pairs).files():
        table = storage.read_table(file)
        nearest = table["rank_for_clip"].to_numpy() == 1
        counts.add(table["similarity"].to_numpy(), nearest, *truth.judge(table))
        sampler.see(table, storage.name_of(file))
    content = {
        "floor": inputs.floor,
        "num_clips": inputs.num_clips,
        "num_captions": inputs.num_captions,
        **counts.to_json(),
        "hubness": {
            "k": inputs.hubness_k,
            "captions": _hubness(inputs, "captions"),
            "clips": _hubness(inputs, "clips"),
        },
        "improvement_sets": {name: _describe(inputs, name, truth) for name in inputs.selections},
    }
    storage.write_json(storage.join(folder, "statistics.json"), content)
    storage.write_json(storage.join(folder, "listening.json"), sampler.chosen())
    return {"pairs": counts.num_pairs, "pairs_judged": counts.num_judged}


def _describe(inputs: StatisticsInputs, name: str, truth: _Truth) -> dict[str, Any]:
    """One Improvement-Set in numbers."""
    counts = ImprovementSetCounts()
    texts: dict[str, str] = {}
    rule, strategy = "", ""
    for file in Ledger(inputs.selections[name]).files():
        for row in storage.read_table(file, ["clip_id", "captions", "rule", "strategy"]).to_pylist():
            rule, strategy = row["rule"], row["strategy"]
            texts.update((caption["caption_id"], caption["text"]) for caption in row["captions"])
            ids = [caption["caption_id"] for caption in row["captions"]]
            counts.add(ids, (truth.pair(row["clip_id"], caption_id) for caption_id in ids))
    return {
        "name": name.removeprefix("select/"),
        "strategy": strategy,
        "rule": rule,
        "threshold": inputs.thresholds[name],
        **counts.to_json(texts),
    }


def _hubness(inputs: StatisticsInputs, side: Side) -> dict[str, Any]:
    """How unevenly captions (clips) share the places among each clip's (caption's) nearest, before any selection."""
    asking: Side = "clips" if side == "captions" else "captions"
    size = {"clips": inputs.num_clips, "captions": inputs.num_captions}
    counts = occurrences(inputs.neighbours, asking, inputs.hubness_k)
    values = np.zeros(size[side], np.int64)
    values[: len(counts)] = list(counts.values())
    hubs = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    if side == "captions" and hubs:
        texts = _texts(inputs.captions)
        hubs = [(texts[key], count) for key, count in hubs]
    return {
        "skewness": skewness(values),
        "share_in_no_list": float((values == 0).mean()) if len(values) else 0.0,
        "hubs": [{"name": name, "share_of_lists": count / max(size[asking], 1)} for name, count in hubs],
    }


class _Truth:
    """Hidden labels of clips, and the labels that captions were written for, where both are known."""

    def __init__(self, inputs: StatisticsInputs):
        captions = storage.read_table(storage.join(inputs.captions, "caption_labels.parquet"))
        clips = storage.read_table(storage.join(inputs.wild, "clip_labels.parquet"))
        self._of_caption = _label_sets(captions, "caption_id")
        self._of_clip = _label_sets(clips, "clip_id")

    def pair(self, clip_id: str, caption_id: str) -> bool | None:
        """Whether clip and caption share a label; None where either has none."""
        clip, caption = self._of_clip.get(clip_id), self._of_caption.get(caption_id)
        return bool(clip & caption) if clip and caption else None

    def judge(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """(known, correct) of every pair."""
        if not self._of_clip or not self._of_caption:
            return np.zeros(len(table), bool), np.zeros(len(table), bool)
        verdicts = [
            self.pair(clip, caption)
            for clip, caption in zip(table["clip_id"].to_pylist(), table["caption_id"].to_pylist(), strict=True)
        ]
        known = np.array([verdict is not None for verdict in verdicts], bool)
        return known, np.array([bool(verdict) for verdict in verdicts], bool)


class _Sampler:
    """For each class of the domain, pairs of one selection: its surest, its least sure, and the nearest it left out."""

    def __init__(self, inputs: StatisticsInputs):
        self._inputs = inputs
        self._selected: dict[str, storage.Location] = {}
        if inputs.listening is not None:
            files = Ledger(inputs.selections[inputs.listening]).files()
            self._selected = {storage.name_of(file): file for file in files}
        self._screened = pa.array([], pa.string())
        if inputs.screened is not None:
            self._screened = storage.read_table(inputs.screened, ["clip_id"])["clip_id"].combine_chunks()
        self._class_of: dict[str, str] = {}
        if inputs.domain is not None and inputs.listening is not None:
            table = storage.read_table(storage.join(inputs.domain, "domain.parquet"))
            self._class_of = dict(zip(table["caption_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        self._best: dict[str, list[tuple[float, str, str]]] = {}
        self._near: dict[str, list[tuple[float, str, str]]] = {}
        self._below: dict[str, list[tuple[float, str, str]]] = {}

    def see(self, table: pa.Table, shard: str) -> None:
        """Take a shard's pairs into account: each clip by one caption only, so that players differ.

        That is its nearest kept caption, or where none was kept its nearest. A clip that was screened out was left out
        for another reason than its captions, and shows nothing of the rule.
        """
        if not self._class_of:
            return
        kept = self._kept_of(shard)
        table = table.filter(pc.invert(pc.is_in(table["clip_id"], value_set=self._screened)))
        for similarity, clip_id, caption_id in _rows(table.filter(pc.equal(table["rank_for_clip"], 1))):
            if clip_id not in kept:
                self._keep(self._below, caption_id, (similarity, clip_id, caption_id), key=lambda entry: -entry[0])
        for clip_id, (similarity, caption_id) in kept.items():
            item = (similarity, clip_id, caption_id)
            self._keep(self._best, caption_id, item, key=lambda entry: -entry[0])
            self._keep(self._near, caption_id, item, key=lambda entry: entry[0])

    def _kept_of(self, shard: str) -> dict[str, tuple[float, str]]:
        """The nearest kept caption of each clip that was kept."""
        if shard not in self._selected:
            return {}
        rows = storage.read_table(self._selected[shard], ["clip_id", "captions"]).to_pylist()
        nearest = {
            row["clip_id"]: min(row["captions"], key=lambda kept: (-kept["similarity"], kept["caption_id"]))
            for row in rows
        }
        return {clip_id: (caption["similarity"], caption["caption_id"]) for clip_id, caption in nearest.items()}

    def _keep(self, kept: dict[str, list[tuple[float, str, str]]], caption_id: str, item: Any, *, key: Any) -> None:
        entries = kept.setdefault(self._class_of[caption_id], [])
        entries.append(item)
        entries.sort(key=lambda entry: (key(entry), entry[1]))
        del entries[2 * self._inputs.per_class :]

    def chosen(self) -> dict[str, Any]:
        """The classes with pairs on both sides first, then by name; a clip is not shown twice in a class."""
        texts = _texts(self._inputs.captions)
        labels = sorted(self._best.keys() | self._below.keys())
        labels.sort(key=lambda label: (not (label in self._best and label in self._below), place_of(0, label)))
        classes = []
        for label in sorted(labels[: self._inputs.classes]):
            best = self._best.get(label, [])[: self._inputs.per_class]
            heard = {entry[1] for entry in best}
            near = [entry for entry in self._near.get(label, []) if entry[1] not in heard][: self._inputs.per_class]
            below = self._below.get(label, [])[: self._inputs.per_class]
            kinds = {"best": best, "borderline": near, "rejected": below}
            classes.append(
                {
                    "label": label,
                    **{
                        kind: [
                            {"similarity": entry[0], "clip_id": entry[1], "caption": texts[entry[2]]}
                            for entry in entries
                        ]
                        for kind, entries in kinds.items()
                    },
                }
            )
        name = self._inputs.listening
        threshold = self._inputs.thresholds[name] if name is not None else None
        return {"selection": name, "threshold": threshold, "classes": classes}


def screen(
    folder: storage.Location,
    wild: storage.Location,
    evaluation: Mapping[str, storage.Location],
    overlap_similarity: float | None,
    duplicate_similarity: float | None,
) -> dict[str, Any]:
    """Write `rejects.parquet`: pool clips too near to an evaluation clip, or to an earlier clip of the pool."""
    ids, audio_AD = read_embeddings(wild)
    names = ids.to_pylist()
    tables = []
    if overlap_similarity is not None:
        for set_name, location in evaluation.items():
            theirs, test_ED = read_embeddings(location)
            found = overlap_by_embedding(
                names, audio_AD, set_name, theirs.to_pylist(), test_ED, threshold=overlap_similarity
            )
            tables.append(as_rejects(found, stage="screen"))
    rows = {row["clip_id"]: row for row in pa.concat_tables([REJECTS.empty_table(), *tables]).to_pylist()}
    if duplicate_similarity is not None:
        duplicates = near_duplicates(audio_AD, epsilon=1 - duplicate_similarity)
        for later in np.flatnonzero(~duplicates.keep_A).tolist():
            earlier = names[duplicates.duplicate_of_A[later]]
            reason = f"cosine {duplicates.similarity_A[later]:.4f} with {earlier}"
            about = {"clip_id": names[later], "stage": "screen", "outcome": "duplicate", "reason": reason}
            rows.setdefault(names[later], about)
    listed = [row for _, row in sorted(rows.items())]
    storage.write_table(storage.join(folder, "rejects.parquet"), pa.Table.from_pylist(listed, schema=REJECTS))
    outcomes = Counter(row["outcome"] for row in listed)
    outcomes["kept"] = len(names) - len(listed)
    return {"outcomes": dict(outcomes)}


def _labels_of(corpus: storage.Location) -> set[str]:
    labels: set[str] = set()
    for file in clip_shards(corpus):
        for row in storage.read_table(file, ["labels"])["labels"].to_pylist():
            labels.update(row or ())
    return labels


def _rows(pairs: pa.Table) -> Iterator[tuple[float, str, str]]:
    return zip(*(pairs[name].to_pylist() for name in ("similarity", "clip_id", "caption_id")), strict=True)


def _texts(captions: storage.Location) -> dict[str, str]:
    return dict(CaptionTexts.read(caption_shards(captions)).text_of)


def _label_sets(table: pa.Table, id_name: str) -> dict[str, set[str]]:
    columns = table[id_name].to_pylist(), table["labels"].to_pylist()
    return {key: {clean_label(label) for label in labels} for key, labels in zip(*columns, strict=True) if labels}
