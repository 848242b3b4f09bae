from __future__ import annotations

import json
from pathlib import Path

import pytest

from raysem.corpora.audioset import AudioSetOptions, read_audioset, read_class_names, read_segments
from raysem.corpora.registry import read_corpus
from raysem.corpora.youtube import file_names
from raysem.errors import DataError
from raysem.ontology.graph import read_nodes

GOOGLE = [
    "# Segments csv created Sun Mar  5 10:54:25 2017",
    "# num_ytids=2, num_segs=2, num_unique_labels=2, num_positive_labels=3",
    "# YTID, start_seconds, end_seconds, positive_labels",
    '--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/06mb1"',
    '--BfvyPmVMo, 20.000, 30.000, "/m/09x0r"',
]
PLAIN = [
    "YTID,start_seconds,end_seconds,positive_labels",
    '--4gqARaEJE,0.0,10.0,"/m/09x0r,/m/06mb1"',
    "--BfvyPmVMo,20.0,30.0,/m/09x0r",
]


@pytest.fixture
def audioset(tmp_path: Path, write_audio, write_lines) -> Path:
    write_lines(tmp_path / "eval_segments.csv", GOOGLE)
    write_lines(
        tmp_path / "class_labels_indices.csv", ["index,mid,display_name", '0,/m/09x0r,"Speech"', '1,/m/06mb1,"Rain, x"']
    )
    write_audio(tmp_path / "audio/eval/Y--4gqARaEJE.flac")
    return tmp_path


def test_both_circulating_forms_give_the_same_segments(tmp_path: Path, write_lines):
    def values(lines):
        path = write_lines(tmp_path / "s.csv", lines)
        return [(s.video_id, s.start_seconds, s.end_seconds, s.labels) for s in read_segments(str(path))]

    assert values(GOOGLE) == values(PLAIN)
    assert values(GOOGLE) == [
        ("--4gqARaEJE", 0.0, 10.0, ("/m/09x0r", "/m/06mb1")),
        ("--BfvyPmVMo", 20.0, 30.0, ("/m/09x0r",)),
    ]


def test_audioset_has_names_for_labels_and_rejects_for_videos_that_are_gone(audioset: Path):
    clips, _, rejects = read_corpus("audioset", str(audioset))
    (clip,) = clips.to_pylist()
    assert (clip["clip_id"], clip["labels"], clip["split"]) == ("audioset/--4gqARaEJE_0", ["Speech", "Rain, x"], "eval")
    assert clip["audio"]["path"] == str(audioset / "audio/eval/Y--4gqARaEJE.flac")
    assert rejects["clip_id"].to_pylist() == ["audioset/--BfvyPmVMo_20"]


@pytest.mark.parametrize(
    "name",
    [
        "--BfvyPmVMo",
        "Y--BfvyPmVMo",
        "--BfvyPmVMo_20",
        "Y--BfvyPmVMo_20.000",
        "--BfvyPmVMo_20.0_30.0",
        "--BfvyPmVMo_20_30",
        "Y--BfvyPmVMo_20.000_30.000",
        "--BfvyPmVMo_20000_30000",
        "--BfvyPmVMo_20000",
        "--BfvyPmVMo_000020",
    ],
)
def test_a_file_is_found_under_every_name_that_circulates(audioset: Path, write_audio, name: str):
    write_audio(audioset / f"audio/deep/{name}.wav")
    clips, _, rejects = read_corpus("audioset", str(audioset))
    assert (len(clips), len(rejects)) == (2, 0)
    assert len(file_names("--BfvyPmVMo", 20.0, 30.0)) == len(set(file_names("--BfvyPmVMo", 20.0, 30.0)))


def test_the_most_exact_name_wins(audioset: Path, write_audio):
    write_audio(audioset / "audio/--BfvyPmVMo.wav")
    exact = write_audio(audioset / "audio/--BfvyPmVMo_20.wav")
    assert list(read_audioset(str(audioset)))[1].path == str(exact)


def test_class_names_come_from_the_ontology_where_there_is_no_class_list(audioset: Path):
    (audioset / "class_labels_indices.csv").unlink()
    with pytest.raises(DataError, match=r"neither class_labels_indices\.csv nor ontology\.json is there"):
        list(read_audioset(str(audioset)))
    nodes = [{"id": "/m/09x0r", "name": "Speech"}, {"id": "/m/06mb1", "name": "Rain"}]
    (audioset / "ontology.json").write_text(json.dumps(nodes))
    assert next(iter(read_audioset(str(audioset)))).labels == ("Speech", "Rain")
    (audioset / "ontology.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match="expected a list of nodes with id and name"):
        read_class_names(str(audioset))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bad id,0,10,/m/09x0r", "line 4: 'bad id' is no YouTube id"),
        ("--BfvyPmVM1,10,10,/m/09x0r", "line 4: the segment goes from 10.0 to 10.0 seconds"),
        ("--BfvyPmVM1,x,10,/m/09x0r", "line 4: start_seconds is 'x'"),
        ("--BfvyPmVM1,0,10,/m/none", "line 4: label '/m/none' has no name"),
        ("--BfvyPmVM1,0,10,", "line 4: column 'positive_labels' is empty"),
        ("--BfvyPmVM1,0,10", "line 4: 3 fields, expected 4"),
        ("--BfvyPmVMo,20,30,/m/09x0r", "line 4: clip_id 'audioset/--BfvyPmVMo_20' was already used at .* line 3"),
    ],
)
def test_a_wrong_line_is_named(audioset: Path, write_lines, line: str, message: str):
    write_lines(audioset / "eval_segments.csv", [*PLAIN, line])
    with pytest.raises(DataError, match=r"eval_segments\.csv " + message):
        read_corpus("audioset", str(audioset))


def test_a_csv_that_was_cut_short_is_seen_by_its_own_count(audioset: Path, write_lines):
    path = write_lines(audioset / "eval_segments.csv", GOOGLE[:-1])
    with pytest.raises(DataError, match="1 segments, but its header says num_segs=2"):
        list(read_segments(str(path)))


def test_missing_parts_and_folders_are_named(audioset: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"none of balanced_train_segments\.csv"):
        list(read_audioset(str(audioset), AudioSetOptions(part=("balanced_train",))))
    with pytest.raises(DataError, match=r"audio2: no such folder"):
        list(read_audioset(str(audioset), AudioSetOptions(audio_folder="audio2")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no table of balanced_train, unbalanced_train, eval; at this root"):
        list(read_audioset(str(tmp_path / "empty")))


def test_a_root_whose_audio_is_all_missing_is_an_error(audioset: Path):
    (audioset / "audio/eval/Y--4gqARaEJE.flac").unlink()
    with pytest.raises(DataError, match="no clip of 'audioset' can be used; the first of 2 rejects: no audio file of"):
        read_corpus("audioset", str(audioset))


def test_the_real_segments_classes_and_ontology_are_whole(shared_data: Path, tmp_path: Path):
    root = shared_data / "audioset"
    counts = [
        sum(1 for _ in read_segments(str(root / f"{part}_segments.csv.gz"))) for part in ("balanced_train", "eval")
    ]
    assert counts == [22160, 20371]
    assert len(read_class_names(str(root))) == 527
    assert len(read_nodes(str(root / "ontology.json"))) == 632
    for path in root.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "audio").mkdir()
    clips, _, _ = read_corpus("audioset", str(tmp_path), missing="keep")
    assert len(clips) == 22160 + 20371
