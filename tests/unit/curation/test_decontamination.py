import numpy as np
import pytest

from raysem.curation.decontamination import (
    EXCLUDED,
    as_rejects,
    freesound_id,
    merge_excluded,
    overlap_by_embedding,
    overlap_by_source,
    youtube_id,
)
from raysem.tables import REJECTS


@pytest.mark.parametrize(
    ("name", "corpus", "expected"),
    [
        ("audio/1-100032-A-0.ogg", "esc50", "freesound:100032"),
        ("5-9032-B-0.wav", "esc50", "freesound:9032"),
        ("fold5/100032-3-0-0.wav", "urbansound8k", "freesound:100032"),
        ("64760.wav", "fsd50k", "freesound:64760"),
        ("https://freesound.org/people/some_user/sounds/12345/", None, "freesound:12345"),
        ("http://www.freesound.org/s/0012345", None, "freesound:12345"),
        ("Distorted AM Radio noise.wav", None, None),
        ("noise.wav", "esc50", None),
    ],
)
def test_freesound_ids_are_read_from_names_and_urls(name, corpus, expected):
    assert freesound_id(name, corpus) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("--PJHxphWEs", "youtube:--PJHxphWEs"),
        ("Y--PJHxphWEs.wav", "youtube:--PJHxphWEs"),
        ("train/--PJHxphWEs_30.000_40.000.flac", "youtube:--PJHxphWEs"),
        ("--PJHxphWEs_30000_40000", "youtube:--PJHxphWEs"),
        ("vgg/-0_BIyprUzg_000030.mp4", "youtube:-0_BIyprUzg"),
        ("https://www.youtube.com/watch?v=--PJHxphWEs&t=30s", "youtube:--PJHxphWEs"),
        ("https://www.youtube.com/watch?t=3&v=--PJHxphWEs", "youtube:--PJHxphWEs"),
        ("https://youtu.be/--PJHxphWEs", "youtube:--PJHxphWEs"),
        ("Y2zPE_ZXZ5bY.wav", "youtube:2zPE_ZXZ5bY"),
        ("1-100032-A-0.wav", None),
        ("a long name of a recording.wav", None),
    ],
)
def test_youtube_ids_are_read_from_names_and_urls(name, expected):
    assert youtube_id(name) == expected


def test_an_unknown_corpus_is_refused():
    with pytest.raises(ValueError, match="no Freesound names known for corpus 'x'; there are"):
        freesound_id("1.wav", "x")


def test_clips_of_one_recording_are_excluded_with_the_reason():
    table = overlap_by_source(
        ["a", "b", "c", "d"],
        ["freesound:1", None, "freesound:2", "freesound:1"],
        {"esc50": {"freesound:1": "1-1-A-0"}, "urbansound8k": {"freesound:1": "1-0-0-0", "freesound:9": "9-0-0-0"}},
    )
    assert table.schema == EXCLUDED
    assert list(zip(table["clip_id"].to_pylist(), table["evaluation_set"].to_pylist(), strict=True)) == [
        ("a", "esc50"),
        ("d", "esc50"),
        ("a", "urbansound8k"),
        ("d", "urbansound8k"),
    ]
    assert table["reason"][0].as_py() == "cut from freesound:1, as is 1-1-A-0 of esc50"


def test_near_duplicates_of_evaluation_clips_are_excluded_and_name_the_nearest():
    evaluation = np.eye(4, dtype=np.float32)[:2]
    pool = np.array([[1, 0, 0, 0], [0.995, np.sqrt(1 - 0.995**2), 0, 0], [0.9, np.sqrt(0.19), 0, 0]], np.float32)
    table = overlap_by_embedding(["a", "b", "c"], pool, "esc50", ["e0", "e1"], evaluation)
    assert table["clip_id"].to_pylist() == ["a", "b"]
    assert table["evaluation_clip_id"].to_pylist() == ["e0", "e0"]
    assert table["similarity"].to_pylist() == pytest.approx([1.0, 0.995])
    assert table["reason"][1].as_py() == "cosine 0.9950 with e0 of esc50 (above 0.99)"


def test_of_several_near_duplicates_the_nearest_is_named_and_order_does_not_matter():
    angles = np.radians([0, 3, 1])
    evaluation = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pool = np.array([[np.cos(np.radians(1.2)), np.sin(np.radians(1.2))]], np.float32)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        names = [f"e{i}" for i in order]
        found = overlap_by_embedding(["a"], pool, "set", names, evaluation[order])
        assert found["evaluation_clip_id"].to_pylist() == ["e2"]


def test_excluded_clips_become_one_reject_each_with_all_reasons():
    evaluation = np.eye(2, dtype=np.float32)
    by_embedding = overlap_by_embedding(["a", "b"], evaluation, "tut17", ["t0", "t1"], evaluation)
    by_source = overlap_by_source(["a", "b"], ["freesound:1", None], {"esc50": {"freesound:1": "e"}})
    excluded = merge_excluded([by_embedding, by_source])
    assert excluded["clip_id"].to_pylist() == ["a", "a", "b"]
    rejects = as_rejects(excluded)
    assert rejects.schema == REJECTS
    assert rejects["clip_id"].to_pylist() == ["a", "b"]
    assert set(rejects["outcome"].to_pylist()) == {"excluded_overlap"}
    assert (
        rejects["reason"][0].as_py()
        == "cut from freesound:1, as is e of esc50; cosine 1.0000 with t0 of tut17 (above 0.99)"
    )


def test_no_overlap_is_an_empty_table():
    assert len(merge_excluded([])) == 0
    assert as_rejects(merge_excluded([])).schema == REJECTS


def test_ids_and_embeddings_must_pair_up():
    with pytest.raises(ValueError, match="pool: 1 ids and 2 embeddings"):
        overlap_by_embedding(["a"], np.eye(2), "x", ["e"], np.eye(2)[:1])
    with pytest.raises(ValueError, match="1 clips and 2 source ids"):
        overlap_by_source(["a"], [None, None], {})
