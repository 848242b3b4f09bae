from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from raysem import storage
from raysem.corpora.label_map import read_label_map
from raysem.corpora.synthetic_sounds import SOUNDS
from raysem.errors import ConfigError, DataError
from raysem.ontology.embedded import label_map_file, label_maps

HEADER = "label,class,reason"


def test_labels_become_classes_each_once_and_in_order(tmp_path: Path, write_lines: Callable[..., Path]):
    lines = [HEADER, 'hiss,"Steam, let out",a', "hen,Bird,b", " hiss , Snake ,c", "rooster,Bird,d"]
    found = read_label_map(str(write_lines(tmp_path / "mine.csv", lines)))
    assert found.classes == ("Steam, let out", "Bird", "Snake")
    assert found.apply(["hen", "hiss", "rooster"]) == ("Bird", "Steam, let out", "Snake")
    assert found.apply([]) == ()


def test_a_label_without_a_class_is_named_with_the_file_and_what_to_do(tmp_path: Path, write_lines):
    file = write_lines(tmp_path / "mine.csv", [HEADER, "hen,Bird,b"])
    with pytest.raises(DataError) as error:
        read_label_map(str(file)).apply(["hen", "Hen"])
    assert str(error.value).startswith(f"{file}: label 'Hen' has no class; add a line with label, class and reason")
    assert "\n" not in str(error.value)


def test_a_map_is_named_by_its_name_by_its_path_or_by_its_uri(tmp_path: Path, write_lines, monkeypatch):
    assert label_maps() == ["esc50_audioset", "synthetic_audioset"]
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "mine.csv", ["label,class", "hen,Bird"])  # reasons are for people
    storage.write_text("memory://maps/mine.csv", "class,label\nBird,hen\n")
    for named in ("mine.csv", "./mine.csv", "memory://maps/mine.csv"):
        assert read_label_map(named).rows == (("hen", "Bird"),)
    with pytest.raises(ConfigError, match="no label map 'esc5'; there are esc50_audioset, synthetic_audioset, or name"):
        label_map_file("esc5")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label,reason", "hen,b"], "no column 'class'"),
        ([HEADER], "maps no label"),
        ([HEADER, "hen,,b"], "line 2: column 'class' is empty"),
        ([HEADER, "hen,Bird,b", ",Bird,b"], "line 3: column 'label' is empty"),
        ([HEADER, "hen,Bird,b", "hen,Bird,again"], "line 3: label 'hen' has the class 'Bird' already"),
        ([HEADER, "sea,Waves, surf,b"], "line 2: too many values; one with a comma in it needs quotes"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused_with_the_line(tmp_path: Path, write_lines, lines, message: str):
    file = write_lines(tmp_path / "mine.csv", lines)
    with pytest.raises(DataError, match=message) as error:
        read_label_map(str(file))
    assert str(error.value).startswith(str(file))


def test_a_map_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_label_map(str(tmp_path / "none.csv"))


def test_the_digest_follows_the_classes_and_not_the_reasons(tmp_path: Path, write_lines):
    def digest(*lines: str) -> str:
        return read_label_map(str(write_lines(tmp_path / "mine.csv", [HEADER, *lines]))).digest

    before = digest("hen,Bird,a", "cow,Cattle,b")
    assert digest("cow,Cattle,of its kind", "hen,Bird,a") == before
    assert digest("hen,Bird,a", "cow,Cow,b") != before
    assert digest("hen,Bird,a", "cow,Cattle,b", "cow,Moo,c") != before


@pytest.mark.parametrize("name", label_maps())
def test_every_line_of_a_map_of_ours_has_a_reason_and_every_label_one_class(name: str):
    with open(label_map_file(name), newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert all(len(row["reason"].split()) >= 3 for row in rows)
    found = read_label_map(name)
    assert len(found.rows) == len(found.classes_of) == len(found.classes) == len(rows)


@pytest.mark.parametrize("name", label_maps())
def test_every_class_of_a_map_of_ours_is_one_of_audiosets_527(name: str, shared_data: Path):
    with (shared_data / "audioset" / "class_labels_indices.csv").open(newline="") as handle:
        names = {row["display_name"] for row in csv.DictReader(handle)}
    assert set(read_label_map(name).classes) <= names


def test_the_map_of_esc50_has_its_50_categories_in_the_order_of_their_targets(shared_data: Path):
    with (shared_data / "esc50" / "meta" / "esc50.csv").open(newline="") as handle:
        category_of = {int(row["target"]): row["category"] for row in csv.DictReader(handle)}
    assert list(read_label_map("esc50_audioset").classes_of) == [category_of[target] for target in range(50)]


def test_the_synthetic_labels_are_audiosets_names_already():
    assert read_label_map("synthetic_audioset").rows == tuple((name, name) for name in SOUNDS)
