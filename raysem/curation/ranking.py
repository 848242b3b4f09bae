"""Ranks of scored pairs: among a clip's captions, and among a caption's clips over all shards. It loads no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

Shards = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


def rank_within(groups: np.ndarray, similarity: np.ndarray, *, tie_break: np.ndarray | None = None) -> np.ndarray:
    """Rank of each row among the rows of its group, int32 from 1 for the highest similarity.

    Equal similarities are ordered by `tie_break` (an identifier), else by position, so the ranks are always distinct.
    """
    groups, similarity = np.asarray(groups), np.asarray(similarity)
    if groups.shape != similarity.shape or groups.ndim != 1:
        raise ValueError(f"one similarity per row, got groups {groups.shape} and similarities {similarity.shape}")
    if np.isnan(similarity).any():
        raise ValueError(f"similarity of row {int(np.isnan(similarity).argmax())} is NaN: it has no rank")
    keys = (-similarity, groups) if tie_break is None else (np.asarray(tie_break), -similarity, groups)
    order = np.lexsort(keys)
    ranks = np.empty(len(groups), np.int32)
    if len(groups):
        sorted_groups = groups[order]
        first = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
        sizes = np.diff(np.r_[first, len(groups)])
        ranks[order] = np.arange(1, len(groups) + 1) - np.repeat(first, sizes)
    return ranks


def rank_over_shards(
    shards: Shards, num_captions: int, *, max_pairs_in_memory: int = 100_000_000, ranks_out: np.ndarray | None = None
) -> list[np.ndarray]:
    """`rank_for_caption` of every pair of every shard: one int32 array per shard, rank 1 for a caption's nearest clip.

    Equal similarities are ordered by shard and position; with clips sorted by id before they were cut into shards, that
    is the order of the ids, however the shards are cut. Captions are taken in partitions of at most
    `max_pairs_in_memory` pairs, one pass over the shards for each and one to count: 12 bytes per pair and the sort's
    index (8). A single caption with more pairs than that is a partition of its own.

    Args:
        shards: called once per pass; gives `(caption_index, similarity)` of each shard, the same each time.
        ranks_out: int32, one per pair, where the ranks go (np.memmap for more than memory holds); allocated if absent.
    """
    counts_C = np.zeros(num_captions, np.int64)
    lengths: list[int] = []
    for caption_index, similarity in shards():
        if len(caption_index) != len(similarity):
            raise ValueError(f"shard {len(lengths)}: {len(caption_index)} captions, {len(similarity)} similarities")
        if len(caption_index) and not (caption_index.min() >= 0 and caption_index.max() < num_captions):
            raise ValueError(
                f"shard {len(lengths)}: caption indices up to {caption_index.max()}, there are {num_captions}"
            )
        counts_C += np.bincount(caption_index, minlength=num_captions)
        lengths.append(len(caption_index))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if ranks_out is None:
        ranks_out = np.empty(starts[-1], np.int32)
    elif ranks_out.shape != (starts[-1],) or ranks_out.dtype != np.int32:
        raise ValueError(f"ranks_out: expected int32 ({starts[-1]},), got {ranks_out.dtype} {ranks_out.shape}")
    for low, high in _partitions(counts_C, max_pairs_in_memory):
        captions, similarities, positions = [], [], []
        for caption_index, similarity in shards():
            position = np.flatnonzero((caption_index >= low) & (caption_index < high)).astype(np.int32)
            captions.append(caption_index[position].astype(np.int32))
            similarities.append(similarity[position].astype(np.float32))
            positions.append(position)
        ranks = rank_within(np.concatenate(captions), np.concatenate(similarities))
        taken = 0
        for start, position in zip(starts[:-1], positions, strict=True):
            ranks_out[start + position.astype(np.int64)] = ranks[taken : taken + len(position)]
            taken += len(position)
    return [ranks_out[start:stop] for start, stop in itertools.pairwise(starts)]


def _partitions(counts_C: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Ranges of captions that hold at most `limit` pairs each, or one caption."""
    low, held = 0, 0
    for caption, count in enumerate(counts_C.tolist()):
        if held and held + count > limit:
            yield low, caption
            low, held = caption, 0
        held += count
    if held:
        yield low, len(counts_C)
