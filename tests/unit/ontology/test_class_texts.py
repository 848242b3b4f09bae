from __future__ import annotations

from pathlib import Path

import pytest

from raysem import config
from raysem.errors import ConfigError, DataError
from raysem.ontology.class_texts import ClassTextSettings, class_texts
from raysem.ontology.graph import OntologyNode

CLASSES = (OntologyNode("/dog", "Dog", "A canine."), OntologyNode("/rain", "Rain, heavy", "Water that falls."))


def table(folder: Path, text: str) -> ClassTextSettings:
    file = folder / "texts.csv"
    file.write_text(text)
    return ClassTextSettings(source="table", table=str(file))


def test_descriptions_names_and_prompts_are_told_apart():
    assert class_texts(CLASSES) == ("A canine.", "Water that falls.")
    assert class_texts(CLASSES, ClassTextSettings(source="name")) == ("Dog", "Rain, heavy")
    prompts = ClassTextSettings(source="prompt", template="the noise of {label}!")
    assert class_texts(CLASSES, prompts) == ("the noise of dog!", "the noise of rain, heavy!")


def test_a_table_describes_classes_by_name_or_id_and_may_hold_others(tmp_path: Path):
    settings = table(tmp_path, 'class,description\n"Rain, heavy","drops,\n many"\nCat,purrs\n/dog,barks\n')
    assert class_texts(CLASSES, settings) == ("barks", "drops, many")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,text\n", "no column 'description'"),
        ("class,description\nDog,barks\n", "1 of 2 classes are not there, the first is 'Rain, heavy'"),
        ("class,description\nDog,barks\n/dog,barks\n", "line 3: class '/dog' was described before"),
        ("class,description\nDog,\n", "line 2: the description of 'Dog' is empty"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_place(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        class_texts(CLASSES, table(tmp_path, text))


def test_a_table_that_is_missing_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"spa.texts.table: source is table"):
        class_texts(CLASSES, ClassTextSettings(source="table"), key="spa.texts")
    with pytest.raises(DataError, match=r"none.csv: no such file"):
        class_texts(CLASSES, ClassTextSettings(source="table", table=str(tmp_path / "none.csv")))


def test_a_class_without_description_is_named():
    with pytest.raises(DataError, match=r"class_texts.source: 1 of 1 classes have no description .* 'Hum'"):
        class_texts([OntologyNode("/hum", "Hum")])


def test_a_template_without_its_place_is_refused():
    with pytest.raises(ConfigError, match=r"template: .*holds \{label\}"):
        config.build(ClassTextSettings, {"template": "a sound"})
