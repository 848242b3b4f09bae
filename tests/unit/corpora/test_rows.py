from __future__ import annotations

import dataclasses

import pytest

from raysem.corpora.rows import (
    CaptionRow,
    ClipRow,
    RowCheck,
    caption_id,
    captions_table,
    clips_table,
    rejects_table,
)
from raysem.errors import DataError
from raysem.tables import CAPTIONS, CLIPS, REJECTS

ROW = ClipRow(clip_id="c/1", source="c", place="c.csv line 2", path="/c/1.wav")


def test_captions_that_differ_in_case_spaces_and_the_full_stop_are_one_caption():
    assert caption_id("A dog  barks.") == caption_id("a dog barks") == caption_id(" A DOG BARKS ")
    assert caption_id("a dog barks") != caption_id("a dog, barks")


def test_the_id_of_a_caption_never_changes():
    assert caption_id("a dog barks") == "358c5547b62d9394"


def test_the_captions_table_keeps_the_first_wording_whatever_else_comes_and_is_sorted_by_id():
    rows = [
        CaptionRow("Rain falls.", "x", "x 1"),
        CaptionRow("A dog\nbarks", "x", "x 2"),
        CaptionRow("rain falls", "y", "y 1"),
    ]
    table = captions_table([*rows, CaptionRow(" . ", "x", "x 3")])
    assert table.schema.equals(CAPTIONS)
    assert sorted(table["text"].to_pylist()) == ["A dog barks", "Rain falls."]
    assert table["caption_id"].to_pylist() == sorted(table["caption_id"].to_pylist())
    assert captions_table(reversed(rows))["caption_id"].equals(table["caption_id"])


def test_rows_become_a_clips_table_with_every_value():
    row = dataclasses.replace(ROW, captions=("a",), labels=("b", "c"), fold=3, split="train", start_seconds=1.0)
    table = clips_table([row])
    assert table.schema.equals(CLIPS)
    assert table.to_pylist() == [
        {
            "clip_id": "c/1",
            "audio": {"bytes": None, "path": "/c/1.wav"},
            "start_seconds": 1.0,
            "duration_seconds": None,
            "captions": ["a"],
            "labels": ["b", "c"],
            "fold": 3,
            "split": "train",
            "source": "c",
        }
    ]


def test_an_id_used_twice_names_both_places():
    again = dataclasses.replace(ROW, place="c.csv line 9")
    with pytest.raises(DataError, match=r"^c\.csv line 9: clip_id 'c/1' was already used at c\.csv line 2"):
        list(RowCheck().passed([ROW, again]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_id": " "}, "clip_id ' ' is empty"),
        ({"clip_id": "a\nb"}, "control characters"),
        ({"path": None}, "neither audio bytes nor a path"),
        ({"start_seconds": -1.0}, "start_seconds is -1.0"),
        ({"start_seconds": float("nan")}, "start_seconds is nan"),
        ({"duration_seconds": 0.0}, "duration_seconds is 0.0"),
        ({"fold": -1}, "fold is -1"),
    ],
)
def test_a_value_that_cannot_be_right_is_named_with_its_place(change, message):
    with pytest.raises(DataError, match=r"^c\.csv line 2: .*" + message):
        list(RowCheck().passed([dataclasses.replace(ROW, **change)]))


def test_a_missing_file_is_an_error_a_reject_or_a_clip_as_asked():
    missing = dataclasses.replace(ROW, problem=("missing", "no file"))
    with pytest.raises(DataError, match=r"^c\.csv line 2: no file .*missing=reject"):
        list(RowCheck(missing="error").passed([missing]))
    check = RowCheck(missing="reject")
    assert list(check.passed([missing])) == []
    assert check.rejects == [("c/1", "missing", "no file")]
    assert list(RowCheck(missing="keep").passed([missing])) == [missing]


def test_other_problems_are_rejects_under_every_policy():
    empty = dataclasses.replace(ROW, problem=("empty", "no bytes"))
    check = RowCheck(missing="keep")
    assert list(check.passed([empty])) == []
    assert rejects_table(check.rejects, "corpora").schema.equals(REJECTS)
    assert check.rejects == [("c/1", "empty", "no bytes")]


def test_tables_are_cut_by_rows_and_by_bytes():
    rows = [dataclasses.replace(ROW, clip_id=f"c/{i}", content=bytes(600_000)) for i in range(5)]
    assert [len(t) for t in RowCheck().tables(rows, max_rows=2)] == [2, 2, 1]
    assert [len(t) for t in RowCheck().tables(rows, max_mib=1)] == [2, 2, 1]
