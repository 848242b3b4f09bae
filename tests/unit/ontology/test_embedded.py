"""The part of AudioSet's graph that raysem carries: what it holds, and that it agrees with AudioSet's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from raysem.ontology.distances import OntologyDistances
from raysem.ontology.graph import Ontology, OntologyNode, read_ontology
from raysem.ontology.source import OntologySettings, find_ontology, load_classes, load_ontology

SETTINGS = OntologySettings(file="synthetic")


@pytest.fixture(scope="module")
def carried() -> Ontology:
    return load_ontology(SETTINGS)


@pytest.fixture(scope="module")
def audioset(audioset_metadata: Path) -> Ontology:
    return read_ontology(str(audioset_metadata / "ontology.json"))


def ids(nodes: tuple[OntologyNode, ...]) -> list[str]:
    return [node.id for node in nodes]


def distances_without(carried: Ontology, id: str) -> OntologyDistances:
    others = {node.id: node.child_ids for node in carried.nodes.values() if node.id != id}
    return OntologyDistances.of_graph(
        {node: [child for child in below if child != id] for node, below in others.items()}
    )


def test_it_is_there_without_any_file_of_the_user(carried: Ontology, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYSEM_ONTOLOGY", raising=False)
    assert len(carried.nodes) == 106
    assert [node.name for node in load_classes(carried, SETTINGS)][:3] == ["Siren", "Rain", "Bark"]
    assert len(load_classes(carried, SETTINGS)) == 35
    monkeypatch.setenv("RAYSEM_ONTOLOGY", "synthetic")
    assert find_ontology() == find_ontology(SETTINGS)
    assert load_classes(carried) == load_classes(carried, SETTINGS)


def test_every_node_has_a_description_of_its_own(carried: Ontology):
    texts = [node.description for node in carried.nodes.values()]
    assert all(len(text.split()) >= 5 for text in texts)
    assert len(set(texts)) == len(texts)


def test_no_node_is_there_without_need(carried: Ontology):
    classes = load_classes(carried, SETTINGS)
    full_KK = carried.distances.between(ids(classes))
    leaves = [node for node in carried.nodes.values() if not node.child_ids and node not in classes]
    assert len(leaves) == 11
    for leaf in leaves:
        assert (distances_without(carried, leaf.id).between(ids(classes)) != full_KK).any(), leaf.name


def test_ids_names_restrictions_and_edges_are_audiosets(carried: Ontology, audioset: Ontology):
    for node in carried.nodes.values():
        theirs = audioset.nodes[node.id]
        assert (node.name, node.restrictions) == (theirs.name, theirs.restrictions)
        assert sorted(node.parent_ids) == sorted(theirs.parent_ids)
        assert node.child_ids == tuple(child for child in theirs.child_ids if child in carried.nodes)


def test_the_classes_lie_as_far_apart_as_in_audiosets_whole_graph(carried: Ontology, audioset: Ontology):
    classes = ids(load_classes(carried, SETTINGS))
    ours_KK = carried.distances.between(classes)
    np.testing.assert_array_equal(ours_KK, audioset.distances.between(classes))
    assert ours_KK.max() == 17


def test_the_descriptions_are_not_audiosets(carried: Ontology, audioset: Ontology):
    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z']+", text.lower())
        return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}

    theirs = set().union(*(runs(node.description) for node in audioset.nodes.values()))
    assert not {node.name: found for node in carried.nodes.values() if (found := runs(node.description) & theirs)}
