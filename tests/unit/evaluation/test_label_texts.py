from __future__ import annotations

from pathlib import Path

import pytest

from raysem.errors import DataError
from raysem.evaluation.label_texts import embed_class_texts, text_neighbourhood
from raysem.ontology.class_texts import ClassTextSettings
from raysem.ontology.source import OntologySettings, load_classes, load_ontology
from raysem.text.encoder import TextEncoderSettings


@pytest.fixture
def encoder(bert_folder: Path) -> TextEncoderSettings:
    return TextEncoderSettings(name=str(bert_folder), max_tokens=30)


def test_the_texts_stand_beside_the_distances_of_their_classes(small_ontology_file: Path, encoder, tmp_path: Path):
    settings = OntologySettings(file=str(small_ontology_file))
    ontology = load_ontology(settings)
    classes = load_classes(ontology, settings)
    found = embed_class_texts(ontology, classes, ClassTextSettings(source="name"), encoder, cache=str(tmp_path / "c"))
    assert found.table.texts == ("Dog", "Bark", "Cat", "Hiss", "Siren", "Steam")
    assert -1 <= found.rank_correlation <= 1
    near = {row["name"]: row["distance"] for row in found.neighbours(ontology.find("Hiss"), 5)}
    assert near == {"Dog": 2, "Bark": 3, "Cat": 1, "Siren": 3, "Steam": 1}
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_a_heading_can_be_asked_for_though_it_is_no_class(small_ontology_file: Path, encoder):
    settings = OntologySettings(file=str(small_ontology_file))
    found = text_neighbourhood("animal", settings, encoder=encoder, count=3)
    assert (found["name"], found["text"]) == ("Animal", "The sound of animal in the air.")
    assert found["classes"] == 7
    assert len(found["neighbours"]) == 3


def test_anything_but_a_known_source_is_a_table(small_ontology_file: Path, encoder, tmp_path: Path):
    settings = OntologySettings(file=str(small_ontology_file))
    names = ("Dog", "Bark", "Cat", "Hiss", "Siren", "Steam")
    (tmp_path / "t.csv").write_text("class,description\n" + "".join(f"{name},{name} sounds\n" for name in names))
    found = text_neighbourhood("Dog", settings, texts=str(tmp_path / "t.csv"), encoder=encoder)
    assert found["text"] == "Dog sounds"
    with pytest.raises(DataError, match=r"nothing.csv: no such file"):
        text_neighbourhood("Dog", settings, texts="nothing.csv", encoder=encoder)
