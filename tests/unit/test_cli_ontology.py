"""`raysem ontology ...` and `raysem text ...`: what people and programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raysem import cli
from raysem.errors import ConfigError, DataError


def call(*arguments: str) -> str:
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False).output


def test_the_distance_of_two_classes_is_shown_with_a_way(small_ontology_file: Path):
    given = ("--ontology", str(small_ontology_file))
    assert call("ontology", "distance", "dog", "Cat", *given) == "2  Dog - Animal - Cat\n"
    found = json.loads(call("ontology", "distance", "Dog", "Dog", *given, "--json"))
    assert found == {"distance": 0, "path": ["Dog"]}


def test_a_class_is_shown_with_its_place_and_its_children(small_ontology_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYSEM_ONTOLOGY", str(small_ontology_file))
    assert call("ontology", "show", "Cat").splitlines() == [
        "Cat  /cat",
        "  Animal > Cat",
        "  The sound of cat in the air.",
        "  children: Hiss",
    ]
    assert call("ontology", "show", "Animal").splitlines()[-1] == "  restrictions: abstract"
    assert json.loads(call("ontology", "show", "Hiss", "--json"))["paths"][0] == ["Animal", "Hiss"]


def test_the_ontology_that_raysem_carries_is_shown_by_its_name():
    lines = call("ontology", "show", "Dog", "--ontology", "synthetic").splitlines()
    assert lines[:2] == ["Dog  /m/0bt9lr", "  Animal > Domestic animals, pets > Dog"]
    assert lines[-1] == "  children: Bark"
    assert call("ontology", "distance", "Bark", "Meow", "--ontology", "synthetic").startswith("4  Bark - Dog - ")


def test_mistakes_are_errors_of_one_line(small_ontology_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYSEM_ONTOLOGY", raising=False)
    with pytest.raises(ConfigError, match=r"^--ontology: no ontology is given"):
        call("ontology", "show", "Dog")
    with pytest.raises(DataError, match="no class 'Dgo'; near it are 'Dog'"):
        call("ontology", "distance", "Dgo", "Cat", "--ontology", str(small_ontology_file))


def test_the_neighbours_of_a_text_are_shown(small_ontology_file: Path, bert_folder: Path, tmp_path: Path):
    given = ("--ontology", str(small_ontology_file), "--encoder", str(bert_folder), "--max-tokens", "30")
    given = ("text", "neighbours", "Siren", *given, "--cache", str(tmp_path / "cache"), "-k", "2")
    lines = call(*given).splitlines()
    assert lines[0] == "Siren: The sound of siren in the air."
    assert len(lines) == 4
    assert lines[-1].startswith("similarity and distance, 6 classes: rank correlation")
    found = json.loads(call(*given, "--json", "--texts", "name"))
    assert found["text"] == "Siren"
    assert len(found["neighbours"]) == 2
