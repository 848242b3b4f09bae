"""The labels of a cross-validation, and what is wrong with a corpus that has not one of them for each clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from raysem import storage
from raysem.errors import DataError
from raysem.runs import fold_labels

Labels = Mapping[str, Sequence[str] | None]
Folds = dict[int, list[str]]


@pytest.fixture
def folds(tmp_path: Path, write_part: Callable[..., str]) -> Callable[..., Folds]:
    """By fold the folders of its clips: of each part the labels by clip_id."""

    def write(content: Mapping[int, Sequence[Labels]]) -> Folds:
        return {
            fold: [
                write_part(
                    tmp_path / f"fold{fold}-{place}",
                    [{"clip_id": name, "labels": found} for name, found in part.items()],
                )
                for place, part in enumerate(parts)
            ]
            for fold, parts in content.items()
        }

    return write


SOUND: dict[int, list[Labels]] = {
    1: [{"a": ["siren"], "b": ["Rain"], "c": ["Rain"]}],
    2: [{"d": ["Rain"], "e": ["siren"], "f": ["bark"]}],
    3: [{"g": ["bark"], "h": ["siren"], "i": ["Rain"]}],
}


def written(folder: Path, parts: Folds, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    fold_labels.write(str(folder / "labels"), parts, wanted)
    return fold_labels.read(str(folder / "labels"))


def refused(folder: Path, parts: Folds, wanted: Sequence[str] = (), tested: Sequence[int] = ()) -> str:
    def both() -> None:
        written(folder, parts, wanted)
        fold_labels.check_tested(str(folder / "labels"), tested)

    with pytest.raises(DataError) as error:
        both()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_labels_are_sorted_unless_the_recipe_names_them(folds: Callable[..., Folds], tmp_path: Path):
    parts = folds(SOUND)
    assert written(tmp_path, parts) == ("Rain", "bark", "siren")
    named = ("siren", "Rain", "bark")
    assert written(tmp_path, parts, named) == named


def test_the_clips_to_train_on_are_counted_by_fold(folds: Callable[..., Folds], tmp_path: Path):
    parts = folds(SOUND | {1: [*SOUND[1], {"x": ["bark"]}]})
    summary = fold_labels.write(str(tmp_path / "labels"), parts, ())
    assert summary == {"labels": 3, "clips": {"1": 3, "2": 3, "3": 3}}
    counts = storage.read_json(str(tmp_path / "labels" / "counts.json"))
    assert counts["1"] == {"siren": 1, "Rain": 2, "bark": 0}
    assert fold_labels.check_tested(str(tmp_path / "labels"), [3, 1]) == {"tested": [3, 1]}


@pytest.mark.parametrize(("labels", "number"), [((), 0), (None, 0), (("Rain", "siren"), 2)])
def test_a_clip_has_one_label(labels: Sequence[str] | None, number: int, folds: Callable[..., Folds], tmp_path: Path):
    parts = folds(SOUND | {2: [{**SOUND[2][0], "e": labels}]})
    assert refused(tmp_path, parts) == f"e: has {number} labels, classification needs one for each clip"


def test_a_held_out_clip_has_one_label_too(folds: Callable[..., Folds], tmp_path: Path):
    parts = folds(SOUND | {2: [*SOUND[2], {"x": []}]})
    assert refused(tmp_path, parts) == "x: has 0 labels, classification needs one for each clip"


def test_a_label_that_the_recipe_does_not_name_is_refused_with_its_clip(folds: Callable[..., Folds], tmp_path: Path):
    text = refused(tmp_path, folds(SOUND), ["Rain", "siren"])
    assert text == "f: label 'bark' is none of the 2 that `labels` names"


def test_a_named_label_that_no_clip_has_is_refused(folds: Callable[..., Folds], tmp_path: Path):
    text = refused(tmp_path, folds(SOUND), ["Rain", "siren", "bark", "meow"])
    assert text == "labels: no clip has the label 'meow'"


def test_one_label_is_none_to_tell_apart(folds: Callable[..., Folds], tmp_path: Path):
    text = refused(tmp_path, folds({1: [{"a": ["Rain"]}], 2: [{"b": ["Rain"]}]}))
    assert text == "corpora.clips: classification needs at least 2 labels, there are ['Rain']"


def test_a_clip_that_stands_in_two_folds_would_be_trained_on_and_tested(folds: Callable[..., Folds], tmp_path: Path):
    text = refused(tmp_path, folds(SOUND | {3: [*SOUND[3], {"b": ["Rain"]}]}))
    assert text == "b: stands in fold 1 and again in fold 3"


def test_a_label_of_one_fold_alone_is_named_with_that_fold(folds: Callable[..., Folds], tmp_path: Path):
    alone = folds(SOUND | {3: [{"h": ["siren"], "i": ["Rain"]}]})
    text = "folds: label 'bark' has no clip to train on when fold 2 is tested (its clips are in fold 2 alone)"
    assert refused(tmp_path, alone, tested=[1, 2, 3]) == text


def test_a_fold_that_is_not_tested_may_hold_all_clips_of_a_label(folds: Callable[..., Folds], tmp_path: Path):
    alone = folds(SOUND | {3: [{"h": ["siren"], "i": ["Rain"]}]})
    assert written(tmp_path, alone) == ("Rain", "bark", "siren")
    assert fold_labels.check_tested(str(tmp_path / "labels"), [1, 3]) == {"tested": [1, 3]}


def test_held_out_clips_are_none_to_train_on(folds: Callable[..., Folds], tmp_path: Path):
    held_out = [{"h": ["siren"], "i": ["Rain"]}, {"g": ["bark"]}]
    text = refused(tmp_path, folds(SOUND | {3: held_out}), tested=[2])
    assert text.endswith("when fold 2 is tested (its clips are in fold 2 alone)")
    both = {2: [{"d": ["Rain"], "e": ["siren"]}, {"f": ["bark"]}], 3: held_out}
    text = refused(tmp_path, folds(SOUND | both), tested=[1])
    assert text == "folds: label 'bark' has no clip to train on when fold 1 is tested (its clips are all held out)"
