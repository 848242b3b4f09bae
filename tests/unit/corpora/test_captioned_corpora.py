"""AudioCaps, Clotho, MACS and tables of captions alone: miniatures of the published layouts, and the real tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysem.corpora.audiocaps import AudioCapsOptions, read_audiocaps
from raysem.corpora.captions import CaptionOptions, read_captions
from raysem.corpora.clotho import ClothoOptions, read_clotho
from raysem.corpora.macs import read_macs
from raysem.corpora.registry import read_corpus
from raysem.errors import DataError

AUDIOCAPS_HEADER = "audiocap_id,youtube_id,start_time,caption"
CLOTHO_HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"


@pytest.fixture
def audiocaps(tmp_path: Path, write_audio, write_lines) -> Path:
    write_lines(
        tmp_path / "dataset/train.csv",
        [AUDIOCAPS_HEADER, "91139,r1nicOVtvkQ,130,A woman talks nearby as water pours", "2,-0SdAVK79lg,30,Gone"],
    )
    write_lines(
        tmp_path / "dataset/test.csv",
        [AUDIOCAPS_HEADER, '3,7fmOlUlwoNg,20,"Rattling, sharp"', "4,6BJ455B1aAs,0,A rocket", "5,7fmOlUlwoNg,20,Noise"],
    )
    for name in ["train/Yr1nicOVtvkQ.wav", "test/7fmOlUlwoNg_20.flac", "test/Y6BJ455B1aAs_0.000_10.000.ogg"]:
        write_audio(tmp_path / "audio" / name)
    return tmp_path


def test_audiocaps_joins_the_captions_of_a_clip_and_rejects_videos_that_are_gone(audiocaps: Path):
    clips, captions, rejects = read_corpus("audiocaps", str(audiocaps))
    assert clips["clip_id"].to_pylist() == [
        "audiocaps/r1nicOVtvkQ_130",
        "audiocaps/7fmOlUlwoNg_20",
        "audiocaps/6BJ455B1aAs_0",
    ]
    assert clips["split"].to_pylist() == ["train", "test", "test"]
    assert clips["captions"].to_pylist()[1] == ["Rattling, sharp", "Noise"]
    assert clips["start_seconds"].to_pylist() == [None, None, None]
    assert len(captions) == 4
    assert rejects.to_pylist() == [
        {
            "clip_id": "audiocaps/-0SdAVK79lg_30",
            "stage": "corpora",
            "outcome": "missing",
            "reason": f"no audio file of -0SdAVK79lg_30 in {audiocaps}/audio",
        }
    ]


def test_whole_videos_are_cut_by_start_and_duration(audiocaps: Path):
    options = AudioCapsOptions(whole_videos=True, split=("test",))
    assert [(clip.start_seconds, clip.duration_seconds) for clip in read_audiocaps(str(audiocaps), options)] == [
        (20.0, 10.0),
        (0.0, 10.0),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("91139,aaaaaaaaaaa,1,Twice", "line 4: audiocap_id 91139 was already used at .* line 2"),
        ("6,short,1,Text", "line 4: 'short' is no YouTube id"),
        ("6,../../../abc,1,Text", "line 4: .* is no YouTube id"),
        ("6,aaaaaaaaaaa,soon,Text", "line 4: start_time is 'soon', expected a number"),
        ("6,aaaaaaaaaaa,1,", "line 4: column 'caption' is empty"),
    ],
)
def test_a_wrong_row_of_audiocaps_is_named(audiocaps: Path, row: str, message: str):
    with (audiocaps / "dataset/train.csv").open("a") as table:
        table.write(row + "\n")
    with pytest.raises(DataError, match=r"train\.csv " + message):
        list(read_audiocaps(str(audiocaps)))


def test_a_split_that_is_not_there_is_named(audiocaps: Path):
    with pytest.raises(DataError, match=r"none of val\.csv, val\.csv\.gz, dataset/val\.csv"):
        list(read_audiocaps(str(audiocaps), AudioCapsOptions(split=("val",))))
    with pytest.raises(DataError, match=r"no table of train, val, test; at this root there must be train\.csv"):
        list(read_audiocaps(str(audiocaps / "audio")))


def test_the_real_audiocaps_v1_has_57188_captions(shared_data: Path, tmp_path: Path):
    for table in (shared_data / "captions/audiocaps").glob("*.csv.gz"):
        (tmp_path / table.name).symlink_to(table)
    (tmp_path / "audio").mkdir()
    clips, _, _ = read_corpus("audiocaps", str(tmp_path), missing="keep")
    splits = clips["split"].to_pylist()
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (49838, 495, 975)
    texts = [row.text for row in read_captions(str(shared_data / "captions/audiocaps"))]
    v2 = [row.text for row in read_captions(str(shared_data / "captions/audiocaps")) if "_v2_" in row.place]
    assert len(texts) - len(v2) == 57188


@pytest.fixture
def clotho(tmp_path: Path, write_audio, write_lines) -> Path:
    captions = ",".join(f'"Water, take {number}."' for number in range(4))
    write_lines(
        tmp_path / "clotho_captions_development.csv",
        [CLOTHO_HEADER, f"Santa Motor #1 (x).wav,{captions},water take 0", f"café.wav,{captions},Last"],
    )
    write_lines(tmp_path / "clotho_captions_evaluation.csv", [CLOTHO_HEADER, f"Santa Motor.wav,{captions},Last"])
    write_audio(tmp_path / "development/Santa Motor #1 (x).wav")
    write_audio(tmp_path / "development/café.flac")
    write_audio(tmp_path / "evaluation/Santa Motor.wav")
    return tmp_path


def test_clotho_is_read_as_published(clotho: Path):
    clips, captions, _ = read_corpus("clotho", str(clotho))
    assert clips["clip_id"].to_pylist() == [
        "clotho/development/Santa Motor #1 (x)",
        "clotho/development/café",
        "clotho/evaluation/Santa Motor",
    ]
    assert [len(texts) for texts in clips["captions"].to_pylist()] == [5, 5, 5]
    assert len(captions) == 4 + 1 + 1  # take 0 to 3, the same without its comma, "Last"


def test_clotho_with_one_caption_a_row_gives_the_same_clips(clotho: Path, write_lines):
    expected = [
        (clip.clip_id, clip.captions) for clip in read_clotho(str(clotho), ClothoOptions(split=("evaluation",)))
    ]
    (_, texts), *_ = expected
    (clotho / "clotho_captions_evaluation.csv").unlink()
    write_lines(
        clotho / "clotho_v2.1_evaluation.csv", ["fname,caption", *(f'Santa Motor.wav,"{text}"' for text in texts)]
    )
    again = read_clotho(str(clotho), ClothoOptions(split=("evaluation",)))
    assert [(clip.clip_id, clip.captions) for clip in again] == expected


def test_mistakes_of_clotho_are_named(clotho: Path, write_lines):
    (clotho / "evaluation/Santa Motor.wav").unlink()
    (clotho / "evaluation/other.wav").write_bytes(b"x")
    with pytest.raises(DataError, match=r"evaluation\.csv line 2: no audio file 'Santa Motor.wav' in"):
        read_corpus("clotho", str(clotho))
    table = clotho / "clotho_captions_development.csv"
    write_lines(table, [CLOTHO_HEADER, "a.wav,1,2,3,4,5", "a.wav,1,2,3,4,5"])
    with pytest.raises(DataError, match=r"line 3: file_name 'a.wav' was already used at .* line 2"):
        list(read_clotho(str(clotho)))
    write_lines(table, ["file_name,caption_1", "a.wav,1"])
    with pytest.raises(DataError, match="no column 'caption_2'; there are file_name, caption_1"):
        list(read_clotho(str(clotho)))
    write_lines(table, ["name", "a.wav"])
    with pytest.raises(DataError, match="no column 'file_name'"):
        list(read_clotho(str(clotho)))


def test_the_real_clotho_has_5929_clips_with_5_captions(shared_data: Path, tmp_path: Path):
    for split in ("development", "validation", "evaluation"):
        name = f"clotho_v2.1_{split}.csv.gz"
        (tmp_path / name).symlink_to(shared_data / "captions/clotho" / name)
        (tmp_path / split).mkdir()
    clips, _, _ = read_corpus("clotho", str(tmp_path), missing="keep")
    assert len(clips) == 3839 + 1045 + 1045
    assert sum(1 for _ in read_captions(str(shared_data / "captions/clotho"))) == 29645


@pytest.fixture
def macs(tmp_path: Path, write_audio, write_lines) -> Path:
    write_lines(
        tmp_path / "MACS.yaml",
        [
            "files:",
            "- filename: airport-barcelona-0-0-a.wav",
            "  annotations:",
            "  - annotator_id: 50",
            "    sentence: Adults talking and some footsteps",
            "    tags: [adults_talking, footsteps]",
            "  - annotator_id: 51",
            "    sentence: 'People talking: far away'",
            "    tags: [adults_talking]",
            "- filename: park-paris-1-2-a.wav",
            "  annotations:",
            "  - {annotator_id: 52, sentence: Birds singing, tags: [birds_singing]}",
        ],
    )
    write_audio(tmp_path / "TAU-urban-acoustic-scenes-2019-development/audio/airport-barcelona-0-0-a.wav")
    write_audio(tmp_path / "TAU-urban-acoustic-scenes-2019-development/audio/park-paris-1-2-a.wav")
    return tmp_path


def test_macs_is_read_with_every_annotators_sentence(macs: Path):
    first, second = read_macs(str(macs))
    assert (first.clip_id, first.labels) == ("macs/airport-barcelona-0-0-a", ("airport",))
    assert first.captions == ("Adults talking and some footsteps", "People talking: far away")
    assert (second.labels, second.captions) == (("park",), ("Birds singing",))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["files: [a"], "not valid YAML"),
        (["clips: []"], "expected a key 'files'"),
        ([], "expected a key 'files'"),
        (["files: []", "made: 2021-99-99"], "not valid YAML"),
        (["files:", "- filename: a.wav"], "file 1: expected filename and annotations"),
        (["files:", "- {filename: ../a.wav, annotations: []}"], "file 1: .* points outside"),
        (["files:", "- {filename: a.wav, annotations: []}"], "file 1: no audio file 'a.wav' in"),
        (["!!python/object/apply:os.system ['true']"], "not valid YAML"),
    ],
)
def test_mistakes_of_macs_are_named(macs: Path, write_lines, lines: list[str], message: str):
    write_lines(macs / "MACS.yaml", lines)
    with pytest.raises(DataError, match=r"MACS\.yaml.*" + message) as caught:
        read_corpus("macs", str(macs))
    assert "\n" not in str(caught.value)


def test_captions_are_read_from_all_known_layouts_and_duplicates_are_one(tmp_path: Path, write_lines):
    write_lines(tmp_path / "audiocaps/train.csv", [AUDIOCAPS_HEADER, "1,r1nicOVtvkQ,130,A dog barks"])
    write_lines(tmp_path / "clotho.csv", [CLOTHO_HEADER, "a.wav,a dog barks.,b,c,d,e"])
    write_lines(
        tmp_path / "wavtext5k/w.csv",
        ["view_link,download_link,title,description,fname,tags", "v,d,Forest,Birds sing,f,", "v,d,Wind,,f,"],
    )
    _, captions, _ = read_corpus("captions", str(tmp_path))
    found = dict(zip(captions["text"].to_pylist(), captions["source"].to_pylist(), strict=True))
    assert found == {
        "A dog barks": "audiocaps",
        "b": "clotho",
        "c": "clotho",
        "d": "clotho",
        "e": "clotho",
        "Birds sing": "wavtext5k",
        "Wind": "wavtext5k",
    }


def test_caption_tables_can_be_named_and_their_columns_too(tmp_path: Path, write_lines):
    write_lines(tmp_path / "x_train.csv", ["a,b", "one,two"])
    write_lines(tmp_path / "x_test.csv", ["a,b", "three,four"])
    with pytest.raises(DataError, match=r"no column of captions is known there; name it with text_column; .* a, b"):
        list(read_captions(str(tmp_path)))
    options = CaptionOptions(text_column="a,b", split="train", source="mine")
    assert [(row.text, row.source) for row in read_captions(str(tmp_path), options)] == [
        ("one", "mine"),
        ("two", "mine"),
    ]
    with pytest.raises(DataError, match="no table other there"):
        list(read_captions(str(tmp_path), CaptionOptions(split="other")))
    with pytest.raises(DataError, match="no column 'c'"):
        list(read_captions(str(tmp_path), CaptionOptions(text_column="c")))


def test_the_real_caption_tables_have_91000_captions(shared_data: Path):
    counts: dict[str, int] = {}
    for row in read_captions(str(shared_data / "captions")):
        if "_v2_" not in row.place:
            counts[row.source] = counts.get(row.source, 0) + 1
    assert counts["audiocaps"] == 57188
    assert counts["clotho"] == 29645
    assert 4400 < counts["wavtext5k"] <= 4525
