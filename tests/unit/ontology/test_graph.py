from __future__ import annotations

import json
from pathlib import Path

import pytest

from raysem.errors import DataError
from raysem.ontology.graph import Ontology, read_ontology


@pytest.fixture
def small(small_ontology_file: Path) -> Ontology:
    return read_ontology(str(small_ontology_file))


def test_a_node_has_its_name_description_parents_children_and_restrictions(small: Ontology):
    hiss, animal = small.nodes["/hiss"], small.nodes["/a"]
    assert (hiss.name, hiss.description) == ("Hiss", "The sound of hiss in the air.")
    assert hiss.parent_ids == ("/a", "/cat", "/steam")
    assert animal.child_ids == ("/dog", "/cat", "/hiss")
    assert animal.restrictions == ("abstract",)
    assert [node.name for node in small.tops] == ["Animal", "Things"]
    assert small.num_edges == 8


def test_classes_are_found_by_id_by_name_and_whatever_the_capitals(small: Ontology):
    assert small.find("/dog") == small.find("Dog") == small.find(" dOG ")


@pytest.mark.parametrize(
    ("asked", "answer"), [("Sirene", "no class 'Sirene'; near it are 'Siren'"), ("zzz", "no class 'zzz'$")]
)
def test_an_unknown_class_is_answered_with_the_names_near_it(small: Ontology, asked: str, answer: str):
    with pytest.raises(DataError, match=answer):
        small.find(asked)


def test_a_name_of_two_nodes_needs_the_id():
    ontology = Ontology([{"id": "/1", "name": "Hum"}, {"id": "/2", "name": "Hum"}])
    with pytest.raises(DataError, match="'Hum' is the name of /1, /2; say the id"):
        ontology.find("Hum")
    assert ontology.find("/2").id == "/2"


def test_every_way_from_the_top_is_given(small: Ontology):
    paths = [" > ".join(node.name for node in path) for path in small.paths_to(small.find("Hiss"))]
    assert paths == ["Animal > Hiss", "Animal > Cat > Hiss", "Things > Steam > Hiss"]


def test_a_shortest_path_has_as_many_edges_as_the_distance(small: Ontology):
    path = small.shortest_path(small.find("Bark"), small.find("Siren"))
    assert [node.name for node in path] == ["Bark", "Dog", "Animal", "Hiss", "Steam", "Things", "Siren"]
    assert small.distances.distance("/bark", "/siren") == 6
    assert small.shortest_path(small.find("Dog"), small.find("Dog")) == [small.find("Dog")]


def test_a_shortest_path_between_separate_trees_leads_over_their_tops():
    ontology = Ontology(
        [{"id": "a", "name": "A", "child_ids": ["b"]}, {"id": "b", "name": "B"}, {"id": "c", "name": "C"}]
    )
    path = ontology.shortest_path(ontology.find("b"), ontology.find("c"))
    assert [node.id for node in path] == ["b", "a", "c"]
    assert ontology.distances.distance("b", "c") == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no class"),
        ([{"id": "a", "name": ""}], "node 0: id and name must be texts"),
        ([{"id": "a", "name": "A"}, {"id": "a", "name": "B"}], "node 1: the id 'a' was used before"),
        ([{"id": "a", "name": "A", "child_ids": ["b"]}], "'A' has a child 'b' that is no node"),
        ([{"id": "a", "name": "A", "child_ids": "b"}], "child_ids of 'A' is 'b', expected a list"),
        ([{"id": "a", "name": "A", "description": 3}], "description of 'A' is 3"),
        ([{"id": "a", "name": "A", "child_ids": ["b", "b"]}, {"id": "b", "name": "B"}], "names something twice"),
        ([{"id": "a", "name": "A", "child_ids": ["a"]}], "'A' is below itself"),
        (
            [{"id": "a", "name": "A", "child_ids": ["b"]}, {"id": "b", "name": "B", "child_ids": ["a"]}],
            r"'A' is below itself \(2 nodes",
        ),
    ],
)
def test_what_cannot_be_an_ontology_is_refused_with_its_place(content: list, message: str):
    with pytest.raises(DataError, match=message):
        Ontology(content)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ('{"id": 1}', "expected a list of nodes"), (None, "no such file")]
)
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str | None, message: str):
    file = tmp_path / "ontology.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_ontology(str(file))


def test_only_id_and_name_are_needed(tmp_path: Path):
    (tmp_path / "o.json").write_text(json.dumps([{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]))
    ontology = read_ontology(str(tmp_path / "o.json"))
    assert ontology.distances.distance("a", "b") == 2  # as if under one root


def test_audioset_has_632_nodes_and_670_edges_in_7_trees(audioset_metadata: Path):
    ontology = read_ontology(str(audioset_metadata / "ontology.json"))
    assert (len(ontology.nodes), ontology.num_edges, len(ontology.tops)) == (632, 670, 7)
    assert sum(len(node.parent_ids) > 1 for node in ontology.nodes.values()) == 38
    assert all(node.description for node in ontology.nodes.values())
