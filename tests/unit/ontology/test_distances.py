from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from raysem.errors import DataError
from raysem.ontology.distances import OntologyDistances, mean_distance
from raysem.ontology.graph import read_ontology


def test_a_chain_and_its_fork_have_their_distances():
    distances = OntologyDistances.of_graph({"top": ["left", "right"], "left": ["leaf"], "right": [], "leaf": []})
    assert distances.between(["top", "left", "right", "leaf"]).tolist() == [
        [0, 1, 1, 2],
        [1, 0, 2, 1],
        [1, 2, 0, 3],
        [2, 1, 3, 0],
    ]


def random_graph(num_nodes: int, seed: int) -> dict[str, list[str]]:
    generator = np.random.default_rng(seed)
    children: dict[str, list[str]] = {str(node): [] for node in range(num_nodes)}
    for node in range(1, num_nodes):
        for parent in set(generator.integers(0, node, size=generator.integers(1, 3)).tolist()):
            children[str(parent)].append(str(node))
    return children


def test_distances_agree_with_floyd_and_warshall():
    children = random_graph(25, seed=0)
    slow = {(a, b): 0 if a == b else 99 for a in children for b in children}
    for parent, ids in children.items():
        for child in ids:
            slow[parent, child] = slow[child, parent] = 1
    for via, a, b in itertools.product(children, repeat=3):
        slow[a, b] = min(slow[a, b], slow[a, via] + slow[via, b])
    distances = OntologyDistances.of_graph(children)
    assert all(distances.distance(a, b) == steps for (a, b), steps in slow.items())


def test_the_order_of_nodes_does_not_matter():
    children = random_graph(20, seed=1)
    ids = list(children)[7:] + list(children)[:7]
    turned = OntologyDistances.of_graph({id: children[id][::-1] for id in ids})
    np.testing.assert_array_equal(OntologyDistances.of_graph(children).between(ids), turned.between(ids))


def test_a_root_joins_the_trees_of_a_forest_and_shortens_nothing_within_them():
    forest = {"a": ["b"], "b": ["c"], "c": [], "d": ["e"], "e": [], "r": ["x", "y"], "x": ["z"], "y": ["z"], "z": []}
    distances = OntologyDistances.of_graph(forest)
    assert distances.distance("c", "e") == 2 + 2 + 1
    assert distances.distance("a", "d") == 2
    assert distances.distance("a", "c") == 2
    two_tops = OntologyDistances.of_graph({"a": ["b"], "b": ["m"], "c": ["m"], "m": [], "far": []})
    assert two_tops.distance("a", "c") == 3  # along edges: no root between classes that are joined
    assert two_tops.distance("a", "far") == 2


def test_a_class_named_twice_is_at_distance_zero_of_itself():
    distances = OntologyDistances.of_graph({"a": ["b"], "b": []})
    assert distances.between(["b", "a", "b"]).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def test_an_unknown_class_is_named():
    with pytest.raises(DataError, match=r"no node 'x' \(1 of 2 classes"):
        OntologyDistances.of_graph({"a": []}).between(["a", "x"])


def test_the_distances_cannot_be_changed_by_whoever_reads_them():
    distances = OntologyDistances.of_graph({"a": ["b"], "b": []})
    with pytest.raises(ValueError, match="read-only"):
        distances.distance_VV[0, 0] = 1


def test_audioset_s_distances_are_the_published_ones(audioset_distances: np.ndarray, audioset_metadata: Path):
    assert audioset_distances.shape == (527, 527)
    assert mean_distance(audioset_distances) == pytest.approx(7.892663, abs=5e-7)
    assert audioset_distances.max() == 21
    assert (audioset_distances[~np.eye(527, dtype=bool)] >= 1).all()
    ontology = read_ontology(str(audioset_metadata / "ontology.json"))
    for one, other, steps in (
        ("Speech", "Male speech, man speaking", 1),
        ("Dog", "Cat", 2),
        ("Speech", "Music", 5),
        ("Speech", "Animal", 9),
        ("Speech", "Water", 12),
        ("Thunder", "Field recording", 21),
    ):
        assert ontology.distances.distance(ontology.find(one).id, ontology.find(other).id) == steps
