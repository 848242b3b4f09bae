"""Every reader against tables as spreadsheets, downloads and scripts spoil them: one line that names file and row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raysem.corpora.registry import read_corpus
from raysem.errors import DataError


@dataclass(frozen=True)
class Miniature:
    """A corpus of two rows: the table that is spoilt, its lines, and what else must be there."""

    name: str
    table: str
    lines: Sequence[str]
    audio: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    twice: str | None = "was already used at"
    """What is said of a row that stands twice; None where it is only another caption of the same clip."""
    columns: Sequence[str] = ()
    """The columns that are needed; none: a table without a header."""


FSD50K = {"part": ("dev",), "caption": "none"}
TUT = "TUT-acoustic-scenes-2017-evaluation"
FOLDER_OPTIONS = {"csv": "t.csv", "start_column": "start", "fold_column": "fold", "caption_column": "text"}
MINIATURES = [
    Miniature(
        "esc50",
        "meta/esc50.csv",
        ["filename,fold,target,category,esc10", "1-1-A-0.wav,1,0,dog,True", "2-2-A-0.wav,2,0,dog,True"],
        ["audio/1-1-A-0.wav", "audio/2-2-A-0.wav"],
        columns=("filename", "fold", "target", "category", "esc10"),
    ),
    Miniature(
        "urbansound8k",
        "metadata/UrbanSound8K.csv",
        ["slice_file_name,fsID,fold,classID,class", "1-3-0-0.wav,1,5,3,dog_bark", "2-3-0-0.wav,2,5,3,dog_bark"],
        ["audio/fold5/1-3-0-0.wav", "audio/fold5/2-3-0-0.wav"],
        columns=("slice_file_name", "fsID", "fold", "classID", "class"),
    ),
    Miniature(
        "fsd50k",
        "FSD50K.ground_truth/dev.csv",
        ["fname,labels,mids,split", "1,Bark,/m/1,train", "2,Bark,/m/1,val"],
        ["FSD50K.dev_audio/1.wav", "FSD50K.dev_audio/2.wav"],
        options=FSD50K,
        columns=("fname", "labels", "mids", "split"),
    ),
    Miniature(
        "audiocaps",
        "train.csv",
        ["audiocap_id,youtube_id,start_time,caption", "1,aaaaaaaaaaa,0,A dog", "2,bbbbbbbbbbb,30,A cat"],
        ["audio/aaaaaaaaaaa.wav", "audio/bbbbbbbbbbb.wav"],
        columns=("audiocap_id", "youtube_id", "start_time", "caption"),
    ),
    Miniature(
        "audioset",
        "eval_segments.csv",
        ["YTID,start_seconds,end_seconds,positive_labels", "aaaaaaaaaaa,0,10,/m/1", "bbbbbbbbbbb,30,40,/m/1"],
        ["audio/aaaaaaaaaaa.wav", "audio/bbbbbbbbbbb.wav"],
        {"class_labels_indices.csv": "index,mid,display_name\n0,/m/1,Dog\n"},
        columns=("YTID", "start_seconds", "end_seconds", "positive_labels"),
    ),
    Miniature(
        "audioset",
        "class_labels_indices.csv",
        ["index,mid,display_name", "0,/m/1,Dog", "1,/m/2,Cat"],
        ["audio/aaaaaaaaaaa.wav"],
        {"eval_segments.csv": "YTID,start_seconds,end_seconds,positive_labels\naaaaaaaaaaa,0,10,/m/1\n"},
        columns=("mid", "display_name"),
    ),
    Miniature(
        "clotho",
        "clotho_captions_evaluation.csv",
        ["file_name,caption_1,caption_2,caption_3,caption_4,caption_5", "a.wav,1,2,3,4,5", "b.wav,1,2,3,4,5"],
        ["evaluation/a.wav", "evaluation/b.wav"],
        columns=("file_name", "caption_1", "caption_5"),
    ),
    Miniature(
        "clotho",
        "clotho_v2.1_evaluation.csv",
        ["fname,caption", "a.wav,A dog", "b.wav,A cat"],
        ["evaluation/a.wav", "evaluation/b.wav"],
        twice=None,
        columns=("fname", "caption"),
    ),
    Miniature("captions", "t.csv", ["id,caption", "1,A dog", "2,A cat"], twice=None, columns=("caption",)),
    Miniature(
        "folder",
        "t.csv",
        ["file,start,fold,text", "a.wav,0,1,A dog", "b.wav,0.5,1,A cat"],
        ["a.wav", "b.wav"],
        options=FOLDER_OPTIONS,
        columns=("file", "start", "fold", "text"),
    ),
    Miniature(
        "tut2017",
        f"{TUT}/meta.txt",
        ["audio/1.wav\tbeach\t", "audio/2.wav\ttram\t"],
        [f"{TUT}/audio/1.wav", f"{TUT}/audio/2.wav"],
        options={"part": ("evaluation",)},
    ),
]
WITH_HEADER = [miniature for miniature in MINIATURES if miniature.columns]


def title(miniature: Miniature) -> str:
    return f"{miniature.name}-{Path(miniature.table).name}"


Spoil = Callable[[Miniature, bytes], "Path"]


@pytest.fixture
def spoil(tmp_path: Path, write_audio) -> Spoil:
    """Writes a miniature whose table holds other bytes; its root."""

    def write(miniature: Miniature, content: bytes) -> Path:
        for name in miniature.audio:
            if not (tmp_path / name).exists():
                write_audio(tmp_path / name)
        for name, text in miniature.files.items():
            (tmp_path / name).write_text(text)
        (tmp_path / miniature.table).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / miniature.table).write_bytes(content)
        return tmp_path

    return write


def lines_of(miniature: Miniature, ending: str = "\n") -> bytes:
    return "".join(f"{line}{ending}" for line in miniature.lines).encode()


def message_of(miniature: Miniature, root: Path) -> str | None:
    """What is said of a corpus that is refused."""
    try:
        read_corpus(miniature.name, str(root), miniature.options)
    except DataError as error:
        return str(error)
    return None


def mistake(miniature: Miniature, root: Path) -> str:
    message = message_of(miniature, root)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("miniature", MINIATURES, ids=title)
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(miniature: Miniature, spoil: Spoil):
    first, second = (
        [table.to_pylist() for table in read_corpus(miniature.name, str(spoil(miniature, content)), miniature.options)]
        for content in (lines_of(miniature), b"\xef\xbb\xbf" + lines_of(miniature, "\r\n"))
    )
    assert first == second
    assert first[0] or first[1]


@pytest.mark.parametrize("miniature", WITH_HEADER, ids=title)
def test_a_column_that_is_missing_is_named_with_the_file(miniature: Miniature, spoil: Spoil):
    for column in miniature.columns:
        content = lines_of(miniature).replace(column.encode(), b"other", 1)
        message = mistake(miniature, spoil(miniature, content))
        assert str(spoil(miniature, content) / miniature.table) in message
        assert column in message
        assert "there are" in message


@pytest.mark.parametrize("miniature", MINIATURES, ids=title)
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=["nothing", "blank lines", "only a mark"])
def test_an_empty_table_is_named(miniature: Miniature, content: bytes, spoil: Spoil):
    message = mistake(miniature, spoil(miniature, content))
    assert str(spoil(miniature, content) / miniature.table) in message
    assert "is empty" in message


@pytest.mark.parametrize("miniature", WITH_HEADER, ids=title)
def test_a_table_of_a_header_alone_is_no_corpus(miniature: Miniature, spoil: Spoil):
    root = spoil(miniature, f"{miniature.lines[0]}\n".encode())
    assert str(root) in mistake(miniature, root)


@pytest.mark.parametrize("miniature", MINIATURES, ids=title)
def test_a_row_with_too_few_fields_is_named(miniature: Miniature, spoil: Spoil):
    last = miniature.lines[-1].split("\t" if not miniature.columns else ",")[0]
    message = mistake(miniature, spoil(miniature, lines_of(miniature) + last.encode() + b"\n"))
    assert f"{miniature.table} line {len(miniature.lines) + 1}: 1 field" in message


@pytest.mark.parametrize("miniature", MINIATURES, ids=title)
def test_a_row_that_stands_twice_is_named_with_the_first(miniature: Miniature, spoil: Spoil):
    root = spoil(miniature, lines_of(miniature) + miniature.lines[-1].encode() + b"\n")
    if miniature.twice is None:
        assert message_of(miniature, root) is None
        return
    message = mistake(miniature, root)
    number = len(miniature.lines)
    assert f"{miniature.table} line {number + 1}: " in message
    assert f"{miniature.twice} {root / miniature.table} line {number}" in message


@pytest.mark.parametrize("miniature", MINIATURES, ids=title)
@pytest.mark.parametrize(
    "junk",
    [b"\xff\xfe\x00a", b"\x89PNG\r\n\x1a\n\x00\x00", b'"never closed', b"a\rb\n", b"\x00,\x00\n"],
    ids=["utf-16", "png", "open quote", "bare return", "nul"],
)
def test_junk_at_the_end_of_a_table_is_one_line_with_its_file(miniature: Miniature, junk: bytes, spoil: Spoil):
    root = spoil(miniature, lines_of(miniature) + junk)
    assert str(root / miniature.table) in mistake(miniature, root)


@pytest.mark.parametrize("miniature", MINIATURES, ids=title)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "--1", "1e400", "x", "", " ", "٣", "\u00a0", "../../x", "=1+1"])
def test_no_value_of_any_field_ends_in_a_traceback(miniature: Miniature, value: str, spoil: Spoil):
    delimiter = "," if miniature.columns else "\t"
    *before, last = miniature.lines
    for position in range(last.count(delimiter) + 1):
        fields = last.split(delimiter)
        fields[position] = value
        content = "\n".join([*before, delimiter.join(fields)]).encode()
        root = spoil(miniature, content)
        message = message_of(miniature, root)
        assert message is None or f"{miniature.table} line {len(miniature.lines)}: " in message
