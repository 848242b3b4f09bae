"""How many edges lie between two classes of an ontology: shortest paths in its undirected graph."""

# Shapes: V nodes of the whole graph, K classes asked for.

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysem.errors import DataError

_FAR = -1  # not reached


@dataclass(frozen=True)
class OntologyDistances:
    """Edges between any two nodes.

    Liu et al., arXiv 2211.12195, as in the code of its authors: every edge between parent and child counts 1, up and
    down alike, and there is no artificial root. The 527 classes of AudioSet lie 1 to 21 apart, 7.892663 in the mean.
    Where the graph falls apart (AudioSet's does not: classes with several parents join its 7 trees) the published
    distance does not exist. Our reading for such ontologies: for a pair in different parts, and for these only, a root
    joins all top nodes.
    """

    node_ids: tuple[str, ...]
    distance_VV: np.ndarray  # int32, symmetric, zero diagonal

    @classmethod
    def of_graph(cls, children: Mapping[str, Sequence[str]]) -> OntologyDistances:
        """From the children of every node, by breadth-first search from each."""
        place = {id: index for index, id in enumerate(children)}
        neighbours: list[list[int]] = [[] for _ in children]
        is_top = np.ones(len(children), dtype=bool)
        for parent, ids in children.items():
            for child in ids:
                neighbours[place[parent]].append(place[child])
                neighbours[place[child]].append(place[parent])
                is_top[place[child]] = False
        distance_VV = np.stack([_steps_from([start], neighbours) for start in range(len(neighbours))])
        apart_VV = distance_VV == _FAR
        if apart_VV.any():
            depth_V = _steps_from(np.flatnonzero(is_top).tolist(), neighbours)
            distance_VV = np.where(apart_VV, depth_V[:, None] + depth_V[None] + 2, distance_VV)
        distance_VV.setflags(write=False)
        return cls(tuple(children), distance_VV)

    def between(self, ids: Sequence[str]) -> np.ndarray:
        """distance_KK (int32) of the classes `ids`, in their order. A class may be named twice: its distance is 0.

        Raises:
            DataError: an id that is no node.
        """
        place = {id: index for index, id in enumerate(self.node_ids)}
        unknown = [id for id in ids if id not in place]
        if unknown:
            raise DataError(
                f"the ontology has no node {unknown[0]!r} ({len(unknown)} of {len(ids)} classes are unknown)"
            )
        index_K = np.array([place[id] for id in ids], dtype=np.int64)
        return self.distance_VV[np.ix_(index_K, index_K)]

    def distance(self, one: str, other: str) -> int:
        """Between two nodes, by their ids."""
        return int(self.between([one, other])[0, 1])


def mean_distance(distance_KK: np.ndarray) -> float:
    """Mean over pairs of different classes."""
    num_classes = len(distance_KK)
    return float(distance_KK.sum() / (num_classes * (num_classes - 1)))


def _steps_from(starts: Sequence[int], neighbours: Sequence[Sequence[int]]) -> np.ndarray:
    """Edges from the nearest of `starts` to every node, int32 (V,)."""
    steps = [_FAR] * len(neighbours)
    for start in starts:
        steps[start] = 0
    queue = deque(starts)
    while queue:
        node = queue.popleft()
        for other in neighbours[node]:
            if steps[other] == _FAR:
                steps[other] = steps[node] + 1
                queue.append(other)
    return np.array(steps, dtype=np.int32)
