from __future__ import annotations

from pathlib import Path

import pytest

from raysem import config
from raysem.errors import ConfigError, DataError
from raysem.ontology.source import OntologySettings, find_ontology, load_classes, load_ontology

HEADER = "index,mid,display_name\n"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYSEM_ONTOLOGY", raising=False)


def test_without_an_ontology_one_line_says_where_it_is_had():
    with pytest.raises(ConfigError) as error:
        load_ontology()
    assert "github.com/audioset/ontology" in str(error.value)
    assert "RAYSEM_ONTOLOGY" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_ontology_is_the_file_the_folder_or_what_the_environment_names(
    small_ontology_file: Path, monkeypatch: pytest.MonkeyPatch
):
    for given in (small_ontology_file, small_ontology_file.parent):
        assert find_ontology(OntologySettings(file=str(given))) == str(small_ontology_file)
    monkeypatch.setenv("RAYSEM_ONTOLOGY", str(small_ontology_file.parent))
    assert find_ontology() == str(small_ontology_file)
    with pytest.raises(ConfigError, match=r"ontology.file: no such file: /nowhere"):
        find_ontology(OntologySettings(file="/nowhere"))
    monkeypatch.setenv("RAYSEM_ONTOLOGY", "/nowhere")
    with pytest.raises(ConfigError, match="RAYSEM_ONTOLOGY: no such file: /nowhere"):
        find_ontology()


def test_without_a_list_the_classes_are_the_nodes_without_restrictions(small_ontology_file: Path):
    settings = OntologySettings(file=str(small_ontology_file))
    classes = load_classes(load_ontology(settings), settings)
    assert [node.name for node in classes] == ["Dog", "Bark", "Cat", "Hiss", "Siren", "Steam"]


def test_the_list_beside_the_ontology_or_the_one_named_gives_the_classes_in_its_order(
    small_ontology_file: Path, tmp_path: Path
):
    settings = OntologySettings(file=str(small_ontology_file))
    ontology = load_ontology(settings)
    (small_ontology_file.parent / "class_labels_indices.csv").write_text(HEADER + '0,/siren,"Siren"\n1,/dog,Dog\n')
    assert [node.id for node in load_classes(ontology, settings)] == ["/siren", "/dog"]
    (tmp_path / "mine.csv").write_text("\ufeff" + HEADER + "0,/a,Animal\n", encoding="utf-8")
    named = OntologySettings(file=str(small_ontology_file), classes=str(tmp_path / "mine.csv"))
    assert [node.id for node in load_classes(ontology, named)] == ["/a"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("index,mid\n", "no column 'display_name'"),
        (HEADER, "lists no class"),
        (HEADER + "1,/dog,Dog\n", "line 2: index is '1', expected 0"),
        (HEADER + "0,/dgo,Dog\n", r"line 2: '/dgo' \(Dog\) is not in the ontology"),
        (HEADER + "0,/dog,Cat\n", "line 2: '/dog' is 'Cat' here and 'Dog' in the ontology"),
        (HEADER + "0,/dog,Dog\n1,/dog,Dog\n", "line 3: '/dog' was listed before"),
        (HEADER + "0\n", r"line 2: '' \(\) is not in the ontology"),
        (HEADER + "0,/dog,Dog, barking\n", "line 2: too many values; one with a comma in it needs quotes"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_with_the_line(small_ontology_file: Path, lines: str, message: str):
    file = small_ontology_file.parent / "class_labels_indices.csv"
    file.write_text(lines)
    settings = OntologySettings(file=str(small_ontology_file))
    with pytest.raises(DataError, match=message):
        load_classes(load_ontology(settings), settings)


def small(small_ontology_file: Path, classes: str | list[str]) -> list[str]:
    settings = config.build(OntologySettings, {"file": str(small_ontology_file), "classes": classes})
    return [node.name for node in load_classes(load_ontology(settings), settings)]


def test_a_list_names_the_classes_by_name_or_id_in_its_order(small_ontology_file: Path):
    assert small(small_ontology_file, ["/siren", "Hiss", "Animal"]) == ["Siren", "Hiss", "Animal"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "^classes: lists no class$"),
        (["Dog", "/dog"], "^classes: '/dog' is listed twice$"),
        (["Dgo"], "^classes: .*ontology.json: no class 'Dgo'; near it are 'Dog'"),
    ],
)
def test_a_list_that_names_no_class_or_one_twice_is_refused(small_ontology_file: Path, names: list[str], message: str):
    with pytest.raises(DataError, match=message):
        small(small_ontology_file, names)


@pytest.mark.parametrize("classes", [5, [1], {"Dog": 1}, None])
def test_classes_that_are_no_text_and_no_list_are_refused_in_one_line(small_ontology_file: Path, classes):
    with pytest.raises(ConfigError, match=r"^recipe: classes: expected a file, label_map:NAME or a list of names, got"):
        small(small_ontology_file, classes)


def test_the_classes_that_a_label_map_names_are_the_classes(small_ontology_file: Path, tmp_path: Path):
    file = tmp_path / "mine.csv"
    file.write_text("label,class\nsnake,Hiss\npuppy,Dog\nkettle,Steam\nkettle,Hiss\n")
    assert small(small_ontology_file, f"label_map:{file}") == ["Hiss", "Dog", "Steam"]
    file.write_text("label,class\npuppy,dog\n")
    with pytest.raises(DataError, match=r"mine\.csv: class 'dog' is written 'Dog' in the ontology"):
        small(small_ontology_file, f"label_map:{file}")
    with pytest.raises(
        DataError, match=r"esc50_audioset\.csv: .*ontology\.json: no class 'Crowing, cock-a-doodle-doo'"
    ):
        small(small_ontology_file, "label_map:esc50_audioset")
    with pytest.raises(ConfigError, match="no label map 'esc5'; there are esc50_audioset"):
        small(small_ontology_file, "label_map:esc5")


def test_the_classes_of_esc50_keep_their_distances_in_audiosets_whole_graph(audioset_metadata: Path):
    settings = OntologySettings(file=str(audioset_metadata), classes="label_map:esc50_audioset")
    ontology = load_ontology(settings)
    classes = load_classes(ontology, settings)
    place = {node.name: index for index, node in enumerate(classes)}
    distance_KK = ontology.distances.between([node.id for node in classes])
    assert distance_KK.shape == (50, 50)
    assert len(place) == 50
    assert distance_KK[place["Dog"], place["Cat"]] == 2
    assert distance_KK[place["Cluck"], place["Crowing, cock-a-doodle-doo"]] == 2  # over a node that is no class here


def test_audioset_has_527_classes_whose_names_are_the_ontologys(audioset_metadata: Path):
    settings = OntologySettings(file=str(audioset_metadata))
    classes = load_classes(load_ontology(settings), settings)
    assert len(classes) == 527
    assert (classes[0].name, classes[526].name) == ("Speech", "Field recording")
