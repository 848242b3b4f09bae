"""ESC-50, UrbanSound8K, TUT Acoustic Scenes 2017, FSD50K: miniatures of the published layouts, and the real tables."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from raysem.corpora.esc50 import Esc50Options, read_esc50
from raysem.corpora.fsd50k import Fsd50kOptions, read_fsd50k
from raysem.corpora.recordings import recording_id
from raysem.corpora.registry import read_corpus
from raysem.corpora.tut2017 import read_tut2017
from raysem.corpora.urbansound8k import read_urbansound8k
from raysem.errors import DataError

ESC50_HEADER = "filename,fold,target,category,esc10,src_file,take"
US8K_HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"


@pytest.fixture
def esc50(tmp_path: Path, write_audio, write_lines) -> Path:
    write_lines(
        tmp_path / "meta/esc50.csv",
        [ESC50_HEADER, "1-100032-A-0.wav,1,0,dog,True,100032,A", "5-9032-A-0.wav,5,0,dog,False,9032,A"],
    )
    write_audio(tmp_path / "audio/1-100032-A-0.wav")
    write_audio(tmp_path / "audio/5-9032-A-0.ogg")
    return tmp_path


def test_esc50_is_read_from_wav_or_any_other_format(esc50: Path):
    first, second = read_esc50(str(esc50))
    assert (first.clip_id, first.path) == ("esc50/1-100032-A-0", str(esc50 / "audio/1-100032-A-0.wav"))
    assert (first.labels, first.fold, first.captions) == (("dog",), 1, ())
    assert (second.path, second.fold) == (str(esc50 / "audio/5-9032-A-0.ogg"), 5)
    assert [clip.fold for clip in read_esc50(str(esc50), Esc50Options(only_esc10=True))] == [1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1-1-A-0.wav,6,0,dog,True,1,A", "line 4: fold is '6', expected a whole number from 1 to 5"),
        ("1-1-A-0.wav,1,50,dog,True,1,A", "line 4: target is '50'"),
        ("1-1-A-0.wav,1,0,dog,True,1,A", "line 4: no audio file '1-1-A-0.wav' in"),
        ("../1-100032-A-0.wav,1,0,dog,True,1,A", "line 4: .* points outside"),
        ("5-9032-A-0.wav,5,0,dog,False,9032,A", "line 4: clip_id 'esc50/5-9032-A-0' was already used at .* line 3"),
    ],
)
def test_a_wrong_row_of_esc50_is_named(esc50: Path, row: str, message: str):
    with (esc50 / "meta/esc50.csv").open("a") as table:
        table.write(row + "\n")
    with pytest.raises(DataError, match=message):
        read_corpus("esc50", str(esc50))


def test_a_root_that_is_not_esc50_says_what_must_be_there(esc50: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no such folder; at this root there must be meta/esc50\.csv and audio/"):
        list(read_esc50(str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"none of meta/esc50\.csv, esc50\.csv is there"):
        list(read_esc50(str(esc50 / "audio")))
    (esc50 / "meta/esc50.csv").write_text("filename,fold\n")
    with pytest.raises(DataError, match="no column 'target', 'category', 'esc10'; there are filename, fold"):
        list(read_esc50(str(esc50)))


def test_the_real_esc50_has_2000_clips_50_classes_and_5_even_folds(shared_data: Path):
    clips, _, rejects = read_corpus("esc50", str(shared_data / "esc50"))
    assert (len(clips), len(rejects)) == (2000, 0)
    assert Counter(clips["fold"].to_pylist()) == dict.fromkeys(range(1, 6), 400)
    assert set(Counter(label for labels in clips["labels"].to_pylist() for label in labels).values()) == {40}


@pytest.fixture
def urbansound8k(tmp_path: Path, write_audio, write_lines) -> Path:
    write_lines(
        tmp_path / "metadata/UrbanSound8K.csv",
        [
            US8K_HEADER,
            "100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark",
            "100263-2-0-117.wav,100263,58.5,62.5,1,10,2,children_playing",
        ],
    )
    write_audio(tmp_path / "audio/fold5/100032-3-0-0.wav")
    write_audio(tmp_path / "audio/fold10/100263-2-0-117.wav")
    return tmp_path


def test_urbansound8k_is_read_by_fold_and_its_start_is_not_one_in_the_file(urbansound8k: Path):
    first, second = read_urbansound8k(str(urbansound8k))
    assert (first.clip_id, first.labels, first.fold) == ("urbansound8k/100032-3-0-0", ("dog_bark",), 5)
    assert (second.path, second.start_seconds) == (str(urbansound8k / "audio/fold10/100263-2-0-117.wav"), None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1-3-0-0.wav,1,0,1,1,11,3,dog_bark", "line 4: fold is '11'"),
        ("1-3-0-0.wav,1,0,1,1,5,4,dog_bark", "line 4: class is 'dog_bark', classID 4 is not its number"),
        ("100032-3-0-1.wav,1,0,1,1,6,3,dog_bark", "line 4: no audio file '100032-3-0-1.wav' in .*/fold6"),
    ],
)
def test_a_wrong_row_of_urbansound8k_is_named(urbansound8k: Path, row: str, message: str):
    with (urbansound8k / "metadata/UrbanSound8K.csv").open("a") as table:
        table.write(row + "\n")
    with pytest.raises(DataError, match=message):
        read_corpus("urbansound8k", str(urbansound8k))


def test_the_real_table_of_urbansound8k_has_its_rows_and_shares_94_recordings_with_esc50(
    shared_data: Path, tmp_path: Path
):
    (tmp_path / "UrbanSound8K.csv").symlink_to(shared_data / "urbansound8k/UrbanSound8K.csv")
    (tmp_path / "audio").mkdir()
    slices, _, _ = read_corpus("urbansound8k", str(tmp_path), missing="keep")
    assert len(slices) == 8732
    assert sorted(Counter(slices["fold"].to_pylist()).values()) == [806, 816, 823, 837, 838, 873, 888, 925, 936, 990]
    esc50, _, _ = read_corpus("esc50", str(shared_data / "esc50"))
    ours, theirs = ({recording_id(key) for key in table["clip_id"].to_pylist()} for table in (slices, esc50))
    assert None not in ours | theirs
    assert len(ours & theirs) == 94


@pytest.mark.parametrize(
    ("clip_id", "recording"),
    [
        ("fsd50k/64760", "freesound:64760"),
        ("audiocaps/-0SdAVK79lg_30", "youtube:-0SdAVK79lg"),
        ("audioset/a_b-c_d_e_f_0.5", "youtube:a_b-c_d_e_f"),
        ("folder/100032-3-0-0", None),
        ("esc50/renamed", None),
    ],
)
def test_the_recording_of_a_clip_is_known_by_its_id(clip_id: str, recording: str | None):
    assert recording_id(clip_id) == recording


@pytest.fixture
def tut2017(tmp_path: Path, write_audio, write_lines) -> Path:
    development = tmp_path / "TUT-acoustic-scenes-2017-development"
    evaluation = tmp_path / "TUT-acoustic-scenes-2017-evaluation"
    names = [f"audio/b0{number}_90_100.wav" for number in range(4)]
    write_lines(development / "meta.txt", [f"{name}\tcafe/restaurant\tb0{i}" for i, name in enumerate(names)])
    for fold, name in enumerate(names, start=1):
        write_lines(development / f"evaluation_setup/fold{fold}_evaluate.txt", [f"{name}\tcafe/restaurant"])
        write_audio(development / name)
    write_lines(evaluation / "meta.txt", ["audio/1245.wav\tforest_path\t"])
    write_audio(evaluation / "audio/1245.wav")
    return tmp_path


def test_tut2017_is_read_with_the_fold_that_tests_a_segment(tut2017: Path):
    clips = list(read_tut2017(str(tut2017)))
    assert [clip.fold for clip in clips] == [1, 2, 3, 4, None]
    assert [clip.split for clip in clips] == ["development"] * 4 + ["evaluation"]
    assert (clips[0].clip_id, clips[0].labels) == ("tut2017/development/b00_90_100", ("cafe/restaurant",))
    assert (clips[4].clip_id, clips[4].labels) == ("tut2017/evaluation/1245", ("forest_path",))


def test_the_evaluation_part_is_read_from_its_setup_where_it_has_no_meta(tut2017: Path, write_lines):
    evaluation = tut2017 / "TUT-acoustic-scenes-2017-evaluation"
    (evaluation / "meta.txt").unlink()
    write_lines(evaluation / "evaluation_setup/evaluate.txt", ["audio/1245.wav\ttram"])
    assert list(read_tut2017(str(tut2017)))[-1].labels == ("tram",)


def test_mistakes_of_tut2017_are_named(tut2017: Path, write_lines):
    development = tut2017 / "TUT-acoustic-scenes-2017-development"
    write_lines(development / "evaluation_setup/fold2_evaluate.txt", ["audio/b00_90_100.wav\tcafe/restaurant"])
    with pytest.raises(DataError, match=r"fold2_evaluate\.txt line 1: .* is tested in fold 1 and in fold 2"):
        list(read_tut2017(str(tut2017)))
    write_lines(development / "evaluation_setup/fold2_evaluate.txt", [])
    with pytest.raises(DataError, match=r"meta\.txt line 2: 'audio/b01_90_100.wav' is in none of the 4"):
        list(read_tut2017(str(tut2017)))
    (development / "evaluation_setup/fold2_evaluate.txt").unlink()
    with pytest.raises(DataError, match=r"none of evaluation_setup/fold2_evaluate\.txt"):
        list(read_tut2017(str(tut2017)))


@pytest.mark.parametrize(("line", "message"), [("audio/x.wav\tforest", "scene 'forest'"), ("audio/x.wav", "1 field")])
def test_a_wrong_line_of_tut2017_is_named(tut2017: Path, write_lines, line: str, message: str):
    write_lines(tut2017 / "TUT-acoustic-scenes-2017-evaluation/meta.txt", [line])
    with pytest.raises(DataError, match=r"meta\.txt line 1: " + message):
        list(read_tut2017(str(tut2017)))


@pytest.fixture
def fsd50k(tmp_path: Path, write_audio, write_lines) -> Path:
    write_lines(
        tmp_path / "FSD50K.ground_truth/dev.csv",
        [
            "fname,labels,mids,split",
            '64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train',
            '16399,"Bark,Dog","/m/05tny_,/m/0bt9lr",val',
        ],
    )
    write_lines(tmp_path / "FSD50K.ground_truth/eval.csv", ["fname,labels,mids", "37199,Rain,/m/06mb1"])
    for part, names in {"dev": ["64760", "16399"], "eval": ["37199"]}.items():
        for name in names:
            write_audio(tmp_path / f"FSD50K.{part}_audio/{name}.wav")
        information = {
            name: {"title": f"guitar_riff {name}.wav", "description": "Loud &amp; <b>long</b>,\r\nsee http://x.y/z"}
            for name in names
        }
        path = tmp_path / f"FSD50K.metadata/{part}_clips_info_FSD50K.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(information))
    return tmp_path


def test_fsd50k_is_read_with_title_and_description_as_its_caption(fsd50k: Path):
    clips = list(read_fsd50k(str(fsd50k)))
    assert [clip.split for clip in clips] == ["train", "val", "eval"]
    assert clips[0].clip_id == "fsd50k/64760"
    assert clips[0].labels == ("Electric_guitar", "Guitar", "Music")
    assert clips[0].captions == ("guitar riff 64760. Loud & long , see",)
    titles = read_fsd50k(str(fsd50k), Fsd50kOptions(caption="title", part=("eval",)))
    assert [clip.captions for clip in titles] == [("guitar riff 37199",)]


def test_fsd50k_needs_its_metadata_only_for_captions(fsd50k: Path):
    (fsd50k / "FSD50K.metadata/dev_clips_info_FSD50K.json").unlink()
    with pytest.raises(DataError, match="or set caption=none"):
        list(read_fsd50k(str(fsd50k)))
    assert [clip.captions for clip in read_fsd50k(str(fsd50k), Fsd50kOptions(caption="none"))] == [(), (), ()]


def test_mistakes_of_fsd50k_are_named(fsd50k: Path, write_lines):
    (fsd50k / "FSD50K.metadata/eval_clips_info_FSD50K.json").write_text("{")
    with pytest.raises(DataError, match=r"eval_clips_info_FSD50K\.json: not valid JSON"):
        list(read_fsd50k(str(fsd50k)))
    write_lines(fsd50k / "FSD50K.ground_truth/dev.csv", ["fname,labels,mids,split", "64760,Rain,/m/06mb1,test"])
    with pytest.raises(DataError, match=r"dev\.csv line 2: split is 'test'"):
        list(read_fsd50k(str(fsd50k)))
