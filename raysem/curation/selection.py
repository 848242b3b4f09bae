"""Which scored pairs enter the Improvement-Set: the strategies DU, DS and ADS and the rules beyond the paper.

Everything here is a filter over arrays: a new threshold needs no model. All rules but one are judged on their own and a
pair stays if it passes them all, so no rule depends on the order of the others. The exception: the rule on captions
(ADS) comes first, and a clip's ranks are counted among the captions it left.
"""

# Shapes: P pairs, C captions, K labels, D embedding width.

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from raysem.config import Settings
from raysem.curation.ranking import rank_within

PAPER_SOURCE = "arXiv 2305.01864, thresholds of the released code (github.com/zhepeiw/clap_curation)"
PAPER_UNDIRECTED_THRESHOLD = 0.75
PAPER_THRESHOLDS: dict[str, dict[str, float]] = {
    "esc50": {"caption_threshold": 0.70, "similarity_threshold": 0.70},
    "urbansound8k": {"caption_threshold": 0.60, "similarity_threshold": 0.70},
    "tut17": {"caption_threshold": 0.675, "similarity_threshold": 0.65},
}
"""Per downstream domain: `caption_threshold` of DS and ADS, `similarity_threshold` of ADS."""


class MarginSettings(Settings):
    """A pair's similarity against the mean similarity r of its clip and of its caption to their nearest neighbours."""

    form: Literal["ratio", "distance", "csls"] = "ratio"
    """ratio s / ((r_clip + r_caption) / 2); distance s - (r_clip + r_caption) / 2; csls 2 s - r_clip - r_caption."""
    num_neighbours: PositiveInt = 4
    """Neighbours in the other modality that r is the mean of."""
    threshold: float = 1.0
    """Keep pairs whose margin is at least this: around 1 for ratio, 0 for distance and csls."""


class SelectionSettings(Settings):
    """What makes a scored pair part of the Improvement-Set."""

    strategy: Literal["DU", "DS", "ADS"] = "DU"
    """DU: any clip with any caption. DS: annotated pairs whose caption is near a label of the downstream domain.
    ADS: any clip with the captions that DS keeps."""
    similarity_threshold: float = Field(PAPER_UNDIRECTED_THRESHOLD, ge=-1, le=1)
    """DU and ADS: keep pairs whose teacher cosine is at least this."""
    caption_threshold: float = Field(0.70, ge=-1, le=1)
    """DS and ADS: keep captions whose highest text-to-text cosine to a prompted label is at least this."""
    quantile: float | None = Field(None, gt=0, le=1)
    """Keep this share of all matched pairs, the most similar ones; the higher of the two thresholds counts."""
    top_k_per_clip: PositiveInt | None = None
    top_k_per_caption: PositiveInt | None = None
    cap_per_caption: PositiveInt | None = None
    """Keep a caption's pairs with probability min(1, cap / its pairs above the threshold), as MetaCLIP balances."""
    mutual_neighbours: PositiveInt | None = None
    """k: the caption is among the clip's k nearest captions, and the clip among the caption's k nearest clips."""
    margin: MarginSettings | None = None
    seed: NonNegativeInt = 0
    """Of the draw of `cap_per_caption`."""

    @model_validator(mode="after")
    def _annotated_pairs_have_no_scores(self) -> Self:
        scored = ("quantile", "top_k_per_clip", "top_k_per_caption", "mutual_neighbours", "margin")
        asked = [name for name in scored if getattr(self, name) is not None]
        if self.strategy == "DS" and asked:
            raise ValueError(f"strategy DS keeps annotated pairs, which have no ranks: leave out {', '.join(asked)}")
        return self


def with_domain_thresholds(settings: SelectionSettings, domain: str) -> SelectionSettings:
    """`settings` with the thresholds released for a downstream domain; DU has one for all (0.75)."""
    if domain not in PAPER_THRESHOLDS:
        raise ValueError(f"no released thresholds for domain {domain!r}; there are {sorted(PAPER_THRESHOLDS)}")
    values = dict(PAPER_THRESHOLDS[domain])
    if settings.strategy == "DU":
        values["similarity_threshold"] = PAPER_UNDIRECTED_THRESHOLD
    return settings.model_copy(update=values)


@dataclass(frozen=True)
class ScoredPairs:
    """Columns of the scored-pairs table, for whole clips: a clip's pairs are all here or none is.

    Identifiers are numpy arrays or Arrow columns. Ranks are those among all matched pairs; DS needs neither ranks nor
    similarities.
    """

    clip_id: Any
    caption_id: Any
    similarity: np.ndarray | None = None
    rank_for_clip: np.ndarray | None = None
    rank_for_caption: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in vars(self).items() if column is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.clip_id)


@dataclass(frozen=True)
class PoolFacts:
    """What a rule must know of pairs in other shards. Only what the settings ask for need be there."""

    kept_captions: frozenset[str] | None = None
    """Identifiers of the captions that DS keeps (`keep_captions`)."""
    caption_counts: Mapping[str, int] = field(default_factory=dict)
    """Pairs of each caption at or above the threshold, over all shards; for `cap_per_caption`."""
    quantile_similarity: float | None = None
    """The similarity above which the share `quantile` of all matched pairs lies."""
    clip_neighbour_similarity: Mapping[str, float] = field(default_factory=dict)
    caption_neighbour_similarity: Mapping[str, float] = field(default_factory=dict)
    """Mean cosine of each clip (caption) to its nearest captions (clips); for `margin`."""


@dataclass(frozen=True)
class Selection:
    """`keep_P` marks the pairs kept, `rule` says what was applied, `passed` counts what each rule alone let through."""

    keep_P: np.ndarray
    rule: str
    threshold: float
    passed: dict[str, int]


def select_pairs(pairs: ScoredPairs, settings: SelectionSettings, facts: PoolFacts | None = None) -> Selection:
    """The pairs that pass every rule of `settings`. The result for a clip does not depend on the other clips here."""
    facts = facts or PoolFacts()
    masks: dict[str, np.ndarray] = {}
    captions = _Codes(pairs.caption_id)
    if settings.strategy in ("DS", "ADS"):
        kept = _required(facts.kept_captions, "kept_captions", f"strategy {settings.strategy}")
        rule = f"caption within {settings.caption_threshold:g} of a label"
        masks[rule] = captions.spread(np.fromiter((i in kept for i in captions.values), bool, len(captions.values)))
    threshold = settings.caption_threshold
    if settings.strategy != "DS":
        threshold = _add_scored_rules(masks, pairs, captions, settings, facts)
    if settings.cap_per_caption is not None:
        probability = settings.cap_per_caption / np.maximum(
            captions.looked_up(facts.caption_counts, "caption_counts"), 1
        )
        draw_P = seeded_uniform(settings.seed, pairs.caption_id, pairs.clip_id)
        masks[f"cap {settings.cap_per_caption} per caption (seed {settings.seed})"] = draw_P < probability
    keep_P = np.logical_and.reduce([np.ones(len(pairs), bool), *masks.values()])
    rule = f"{settings.strategy}: " + " and ".join(masks)
    return Selection(keep_P, rule, threshold, {name: int(mask.sum()) for name, mask in masks.items()})


def keep_captions(text_CD: np.ndarray, label_KD: np.ndarray, threshold: float) -> np.ndarray:
    """Mask of the captions whose cosine to some label is at least `threshold` (the rule of DS); rows of unit length.

    Compared in float32: in float16 the spacing near 0.7 is 5e-4.
    """
    text_CD, label_KD = np.asarray(text_CD), np.asarray(label_KD)
    if text_CD.ndim != 2 or label_KD.ndim != 2 or text_CD.shape[1] != label_KD.shape[1]:
        raise ValueError(f"embeddings of one width, got captions {text_CD.shape} and labels {label_KD.shape}")
    if not len(label_KD):
        raise ValueError("no label to compare captions with")
    return nearest_label_similarity(text_CD, label_KD) >= np.float32(threshold)


def nearest_label_similarity(text_CD: np.ndarray, label_KD: np.ndarray, *, rows_at_once: int = 4096) -> np.ndarray:
    """float32: each caption's highest cosine to a label. Summed in float64, rounded once."""
    labels_DK = label_KD.astype(np.float32).astype(np.float64).T
    blocks = [
        (text_CD[start : start + rows_at_once].astype(np.float32) @ labels_DK).max(axis=1)
        for start in range(0, len(text_CD), rows_at_once)
    ]
    return np.concatenate([np.empty(0), *blocks]).astype(np.float32)


def margin_score(
    similarity_P: np.ndarray, clip_mean_P: np.ndarray, caption_mean_P: np.ndarray, form: str
) -> np.ndarray:
    """LASER's margins (Artetxe and Schwenk 2019, arXiv 1811.01136) and CSLS (Conneau et al. 2018, arXiv 1710.04087)."""
    mean_P = (np.asarray(clip_mean_P, np.float64) + caption_mean_P) / 2
    if form == "ratio":
        return similarity_P / mean_P
    if form == "distance":
        return similarity_P - mean_P
    if form == "csls":
        return 2 * (similarity_P - mean_P)
    raise ValueError(f"margin form {form!r}; there are ratio, distance, csls")


def relative_acceptance(similarity_P: np.ndarray, label_similarity_P: np.ndarray, margin: float) -> np.ndarray:
    """Mask of pairs whose caption beats the clip's own label text by `margin` (AudioSetCaps, arXiv 2411.18953)."""
    return np.asarray(similarity_P, np.float32) >= np.asarray(label_similarity_P, np.float32) + np.float32(margin)


def seeded_uniform(seed: int, *identifiers: Any) -> np.ndarray:
    """One float64 in [0, 1) per row, fixed by the seed and the row's identifiers alone: no order, shard or process."""
    state_P = np.full(len(identifiers[0]), _hashed(f"seed {seed}"), np.uint64)
    for column in identifiers:
        codes = _Codes(column)
        state_P = _mixed(state_P ^ codes.spread(np.array([_hashed(str(i)) for i in codes.values], np.uint64)))
    return (state_P >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _add_scored_rules(
    masks: dict[str, np.ndarray],
    pairs: ScoredPairs,
    captions: _Codes,
    settings: SelectionSettings,
    facts: PoolFacts,
) -> float:
    """Adds the rules on similarities and ranks to `masks`; the similarity threshold that was in force."""
    similarity_P = np.asarray(_required(pairs.similarity, "similarity", f"strategy {settings.strategy}"), np.float32)
    of_captions_P = np.logical_and.reduce([np.ones(len(pairs), bool), *masks.values()])
    threshold = settings.similarity_threshold
    if settings.quantile is not None:
        at = _required(facts.quantile_similarity, "quantile_similarity", "quantile")
        threshold = max(threshold, at)
    above = f"cosine >= {threshold:g}" + (
        f" (top {settings.quantile:g})" if threshold != settings.similarity_threshold else ""
    )
    masks[above] = similarity_P >= np.float32(threshold)
    if settings.top_k_per_clip is not None or settings.mutual_neighbours is not None:
        clip_rank_P = np.asarray(_required(pairs.rank_for_clip, "rank_for_clip", "top_k_per_clip"))
        if not of_captions_P.all():
            # among the captions that are left; the old rank orders them, ties included
            left = np.flatnonzero(of_captions_P)
            ranked = rank_within(_Codes(pairs.clip_id).codes[left], -clip_rank_P[left].astype(np.float64))
            clip_rank_P = np.full(len(pairs), np.iinfo(np.int32).max)
            clip_rank_P[left] = ranked
    if settings.top_k_per_clip is not None:
        masks[f"top {settings.top_k_per_clip} per clip"] = clip_rank_P <= settings.top_k_per_clip
    if settings.top_k_per_caption is not None or settings.mutual_neighbours is not None:
        caption_rank_P = np.asarray(_required(pairs.rank_for_caption, "rank_for_caption", "top_k_per_caption"))
    if settings.top_k_per_caption is not None:
        masks[f"top {settings.top_k_per_caption} per caption"] = caption_rank_P <= settings.top_k_per_caption
    if settings.mutual_neighbours is not None:
        k = settings.mutual_neighbours
        masks[f"mutual {k} nearest neighbours"] = (clip_rank_P <= k) & (caption_rank_P <= k)
    if settings.margin is not None:
        clips, form = _Codes(pairs.clip_id), settings.margin.form
        clip_mean_P = clips.looked_up(facts.clip_neighbour_similarity, "clip_neighbour_similarity")
        caption_mean_P = captions.looked_up(facts.caption_neighbour_similarity, "caption_neighbour_similarity")
        score_P = margin_score(similarity_P, clip_mean_P, caption_mean_P, form)
        rule = f"{form} margin >= {settings.margin.threshold:g} over {settings.margin.num_neighbours} neighbours"
        masks[rule] = score_P >= settings.margin.threshold
    return threshold


class _Codes:
    """A column of identifiers as its distinct values and one code per row."""

    def __init__(self, column: Any):
        array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(np.asarray(column).tolist())
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        encoded = array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()
        if encoded.null_count:
            raise ValueError("an identifier is null")
        self.codes: np.ndarray = encoded.indices.to_numpy(zero_copy_only=False)
        self.values: list = encoded.dictionary.to_pylist()

    def spread(self, per_value: np.ndarray) -> np.ndarray:
        """One entry per distinct value to one per row."""
        return per_value[self.codes] if len(self.codes) else per_value[:0]

    def looked_up(self, table: Mapping[Any, float], name: str) -> np.ndarray:
        """float64: the entry of `table` for each row."""
        missing = [value for value in self.values if value not in table]
        if missing:
            raise ValueError(f"{name} has no entry for {missing[0]!r} and {len(missing) - 1} more")
        return self.spread(np.array([table[value] for value in self.values], np.float64))


def _required(value: Any, name: str, by: str) -> Any:
    if value is None:
        raise ValueError(f"{by} needs {name}, which was not given")
    return value


def _hashed(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _mixed(state: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: every bit of the result depends on every bit of `state`."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
