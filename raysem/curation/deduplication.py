"""Duplicates among clips and among captions: the first of a group stays, in the order given.

Sort by identifier first: then what stays depends on the set alone.
"""

# Shapes: A items, D embedding width, H hashes.

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from raysem.curation.matching import match_tiles

ROWS_PER_CLUSTER = 20_000
MINHASH_BANDS, MINHASH_ROWS = 32, 4  # a pair with Jaccard 0.8 shares a band with probability 1 - 5e-8


@dataclass(frozen=True)
class Duplicates:
    """`keep_A` marks what stays. `duplicate_of_A` is the earlier item (-1: none) and `similarity_A` how near it is."""

    keep_A: np.ndarray
    duplicate_of_A: np.ndarray
    similarity_A: np.ndarray


def exact_duplicates(keys: Sequence[Hashable]) -> Duplicates:
    """Items whose key (a hash of the bytes, a normalised text) an earlier item has."""
    first: dict[Hashable, int] = {}
    duplicate_of = np.full(len(keys), -1, np.int64)
    for position, key in enumerate(keys):
        earlier = first.setdefault(key, position)
        if earlier != position:
            duplicate_of[position] = earlier
    return Duplicates(duplicate_of < 0, duplicate_of, np.where(duplicate_of < 0, 0, 1).astype(np.float32))


def content_hash(content: bytes) -> str:
    """Equal for equal bytes alone."""
    return hashlib.sha256(content).hexdigest()


def near_duplicates(
    embedding_AD: np.ndarray, *, epsilon: float = 0.01, num_clusters: int | None = None, seed: int = 0
) -> Duplicates:
    """Items whose highest cosine to an earlier one exceeds 1 - epsilon (SemDeDup, Abbas et al. 2023, arXiv 2303.09540).

    Compared within k-means clusters only; up to 20,000 rows there is one cluster, and the answer is exact. An earlier
    item that is itself dropped counts as well, as in the paper's code: of a chain of near-duplicates the first stays.
    The paper keeps the item farthest from its centroid; here the first stays, so that a rerun with more clips, later in
    the order, drops the same ones.
    """
    if not 0 < epsilon < 2:
        raise ValueError(f"epsilon {epsilon}: a cosine distance above 0 and below 2")
    embedding_AD = np.ascontiguousarray(embedding_AD, dtype=np.float32)
    duplicate_of = np.full(len(embedding_AD), -1, np.int64)
    similarity = np.zeros(len(embedding_AD), np.float32)
    for members in _clusters(embedding_AD, num_clusters or -(-len(embedding_AD) // ROWS_PER_CLUSTER), seed):
        rows = embedding_AD[members]
        nearest, earlier = np.zeros(len(rows), np.float32), np.full(len(rows), -1, np.int64)
        for first, later, cosine in match_tiles(rows, rows, 1 - epsilon):
            wanted = (first < later) & (cosine > np.float32(1 - epsilon))
            order = np.lexsort((first[wanted], -cosine[wanted], later[wanted]))
            first, later, cosine = first[wanted][order], later[wanted][order], cosine[wanted][order]
            best = np.flatnonzero(np.diff(later, prepend=-1))  # each item's nearest earlier one within the tile
            first, later, cosine = first[best], later[best], cosine[best]
            better = (cosine > nearest[later]) | ((cosine == nearest[later]) & (first < earlier[later]))
            nearest[later[better]], earlier[later[better]] = cosine[better], first[better]
        found = earlier >= 0
        duplicate_of[members[found]] = members[earlier[found]]
        similarity[members[found]] = nearest[found]
    return Duplicates(duplicate_of < 0, duplicate_of, similarity)


def normalise_text(text: str) -> str:
    """Lower case, one form per character, words alone: "A dog  barks." and "a dog barks" are one caption."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", plain))


def near_duplicate_captions(texts: Sequence[str], *, threshold: float = 0.8, seed: int = 0) -> Duplicates:
    """Captions whose sets of 4-letter shingles have a Jaccard similarity >= `threshold` with an earlier one that stays.

    MinHash finds the candidates (Broder 1997; 32 bands of 4), the exact similarity settles them: nothing is dropped by
    chance. A pair at 0.8 is missed once in ten million, one at 0.7 twice in ten thousand, one at 0.6 once in a hundred.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold}: above 0, at most 1")
    shingles = [_shingles(normalise_text(text)) for text in texts]
    bands: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(MINHASH_BANDS)]
    random = np.random.default_rng(seed)
    factor_H, offset_H = random.integers(1, 2**63, (2, MINHASH_BANDS * MINHASH_ROWS), dtype=np.uint64)
    factor_H |= np.uint64(1)
    duplicate_of = np.full(len(texts), -1, np.int64)
    similarity = np.zeros(len(texts), np.float32)
    for position, own in enumerate(shingles):
        hashes = np.fromiter(own, np.uint64, len(own))
        # multiply-shift: the upper bits of a x + b (mod 2^64)
        signature_H = ((hashes[:, None] * factor_H + offset_H) >> np.uint64(32)).min(axis=0)
        keys = [row.tobytes() for row in signature_H.reshape(MINHASH_BANDS, MINHASH_ROWS)]
        candidates = sorted({other for band, key in zip(bands, keys, strict=True) for other in band[key]})
        for other in candidates:
            jaccard = len(own & shingles[other]) / len(own | shingles[other])
            if jaccard >= threshold and jaccard > similarity[position]:
                duplicate_of[position], similarity[position] = other, jaccard
        if duplicate_of[position] < 0:
            for band, key in zip(bands, keys, strict=True):
                band[key].append(position)
    return Duplicates(duplicate_of < 0, duplicate_of, similarity)


def _clusters(embedding_AD: np.ndarray, num_clusters: int, seed: int) -> list[np.ndarray]:
    """Positions of each cluster's members, in order."""
    if num_clusters <= 1:
        return [np.arange(len(embedding_AD))] if len(embedding_AD) else []
    width = embedding_AD.shape[1]
    means = faiss.Kmeans(width, num_clusters, niter=10, seed=seed, spherical=True, verbose=False)
    means.cp.min_points_per_centroid = 1
    means.train(embedding_AD)
    cluster_A = means.index.search(embedding_AD, 1)[1][:, 0]
    return [members for k in range(num_clusters) if len(members := np.flatnonzero(cluster_A == k))]


def _shingles(text: str) -> set[int]:
    """Hashes of all runs of 4 letters; of a shorter text, the text."""
    runs = {text[start : start + 4] for start in range(max(len(text) - 3, 1))}
    return {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little") for run in runs}
