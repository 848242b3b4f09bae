from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raysem.errors import DataError
from raysem.ontology.graph import Ontology
from raysem.ontology.source import OntologySettings, load_classes, load_ontology, named_classes
from raysem.ontology.tag_classes import FILE, TagClasses, tag_classes

NAMES = ("Rain", "Bark", "Vehicle horn, car horn, honking", "Choir", "Thunder")


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return load_ontology(OntologySettings(file="synthetic"))


@pytest.fixture
def classes(ontology: Ontology) -> TagClasses:
    return tag_classes(ontology, named_classes(NAMES, ontology, "here"))


@pytest.fixture
def with_texts(classes: TagClasses) -> TagClasses:
    text_KD = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    return replace(classes, text_KD=text_KD, texts=("wet", "a dog's", "one, two", "many\nvoices", "\u00fc"))


def assert_same(one: TagClasses, two: TagClasses) -> None:
    assert (one.names, one.ids, one.parents, one.texts) == (two.names, two.ids, two.parents, two.texts)
    assert one.distance_KK.dtype == two.distance_KK.dtype
    np.testing.assert_array_equal(one.distance_KK, two.distance_KK)
    assert (one.text_KD is None) == (two.text_KD is None)
    if one.text_KD is not None and two.text_KD is not None:
        assert one.text_KD.dtype == two.text_KD.dtype
        np.testing.assert_array_equal(one.text_KD, two.text_KD)


def test_classes_have_the_ids_parents_and_distances_of_the_ontology_in_their_own_order(
    ontology: Ontology, classes: TagClasses
):
    assert len(classes) == 5
    assert classes.names == NAMES
    assert classes.ids[:2] == ("/m/06mb1", "/m/05tny_")
    assert classes.parents == (
        ("Water",),
        ("Dog",),
        ("Car", "Alarm"),
        ("Singing", "Musical instrument"),
        ("Thunderstorm",),
    )
    assert classes.distance_KK.dtype == np.uint8
    np.testing.assert_array_equal(classes.distance_KK, ontology.distances.between(list(classes.ids)))
    assert classes.distance_KK[0, 1] == 7
    assert classes.distance_KK[0, 4] == 4
    assert classes.index == {name: place for place, name in enumerate(NAMES)}
    assert (classes.text_KD, classes.texts) == (None, ())


def test_every_class_of_the_synthetic_corpus_is_at_its_place(ontology: Ontology):
    nodes = load_classes(ontology, OntologySettings(file="synthetic"))
    classes = tag_classes(ontology, nodes)
    assert len(classes) == 35
    assert [classes.place_of(node.name, where="here") for node in nodes] == list(range(35))
    assert (classes.distance_KK == classes.distance_KK.T).all()
    assert not classes.distance_KK.diagonal().any()


@pytest.mark.parametrize("texts", [False, True])
def test_what_was_written_is_read_to_the_bit(tmp_path: Path, classes: TagClasses, with_texts: TagClasses, texts: bool):
    written = with_texts if texts else classes
    for folder in (str(tmp_path / "classes"), "memory://classes/here"):
        written.write(folder)
        assert_same(TagClasses.read(folder), written)
    assert pq.read_table(tmp_path / "classes" / FILE).num_rows == 5


def test_a_distance_of_a_large_ontology_survives(tmp_path: Path, classes: TagClasses):
    far = replace(classes, distance_KK=np.where(np.eye(5) > 0, 0, 200).astype(np.uint8))
    far.write(str(tmp_path))
    assert_same(TagClasses.read(str(tmp_path)), far)


def test_writing_again_replaces_texts_and_leaves_none_behind(
    tmp_path: Path, classes: TagClasses, with_texts: TagClasses
):
    with_texts.write(str(tmp_path))
    classes.write(str(tmp_path))
    assert_same(TagClasses.read(str(tmp_path)), classes)


def test_targets_are_ones_where_a_clip_has_the_class(classes: TagClasses):
    labels = [["Bark"], [], ("Thunder", "Rain"), ["Choir", "Choir"], ["Vehicle horn, car horn, honking"]]
    targets_NK = classes.targets(labels, where="here")
    assert targets_NK.dtype == np.uint8
    assert targets_NK.tolist() == [
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
    ]
    assert classes.targets([], where="here").shape == (0, 5)


@pytest.mark.parametrize("label", ["bark", "Dog", "Bark ", "/m/05tny_", ""])
def test_a_label_that_is_no_class_is_said_in_one_line_with_where_it_is(classes: TagClasses, label: str):
    expected = (
        f"evaluation set esc50: label {label!r} is none of the 5 classes (Rain, Bark, Vehicle horn, car horn, honking, "
        "Choir, ...); other labels can be mapped with label_map"
    )
    for call in (
        lambda: classes.place_of(label, where="evaluation set esc50"),
        lambda: classes.targets([["Rain"], ["Bark", label]], where="evaluation set esc50"),
    ):
        with pytest.raises(DataError) as raised:
            call()
        assert str(raised.value) == expected


def test_a_folder_without_classes_is_said_by_name(tmp_path: Path):
    with pytest.raises(DataError, match=f"{FILE}: no such file"):
        TagClasses.read(str(tmp_path))


def test_the_digest_is_that_of_all_that_is_written(tmp_path: Path, classes: TagClasses, with_texts: TagClasses):
    with_texts.write(str(tmp_path))
    assert TagClasses.read(str(tmp_path)).digest == with_texts.digest != classes.digest
    nearer_KK = classes.distance_KK.copy()
    nearer_KK[0, 1] = nearer_KK[1, 0] = 3
    others = [
        replace(classes, names=("Drizzle", *classes.names[1:])),
        replace(classes, ids=("/m/other", *classes.ids[1:])),
        replace(classes, parents=((), *classes.parents[1:])),
        replace(classes, distance_KK=nearer_KK),
    ]
    assert len({classes.digest, *(other.digest for other in others)}) == 5
