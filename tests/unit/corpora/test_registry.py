from __future__ import annotations

from pathlib import Path

import pytest

from raysem import storage
from raysem.corpora.registry import CORPORA, build_corpus, find_corpus, list_corpora, open_corpus, read_corpus
from raysem.corpora.shards import read_manifest
from raysem.errors import ConfigError, DataError

NAMES = [
    "audiocaps",
    "audioset",
    "captions",
    "captions_table",
    "clips_table",
    "clotho",
    "esc50",
    "folder",
    "fsd50k",
    "macs",
    "parquet",
    "synthetic",
    "tut2017",
    "urbansound8k",
    "webdataset",
]


def test_the_list_tells_of_each_corpus_what_it_is_its_licence_and_its_root():
    assert [info.name for info in list_corpora()] == NAMES
    for info in list_corpora():
        assert all((info.title, info.licence, info.root))
        assert [info.clips, info.captions, info.make].count(None) == 2


def test_an_unknown_corpus_is_answered_with_the_names_there_are():
    with pytest.raises(ConfigError, match="no corpus 'esc'; there are audiocaps, audioset"):
        find_corpus("esc")


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"synthetic"}))
def test_every_corpus_says_what_a_wrong_root_lacks(name: str, tmp_path: Path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as caught:
            read_corpus(name, str(root))
        assert str(root) in str(caught.value)
        assert CORPORA[name].root.split(",")[0].split(" ")[0] in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.fixture
def root(tmp_path: Path, write_audio, write_lines) -> Path:
    for index in range(5):
        write_audio(tmp_path / f"root/{index}.wav", 200 + index)
    write_lines(
        tmp_path / "root/t.csv", ["file,text", *(f"{index}.wav,Sound {index % 2}" for index in (4, 2, 0, 1, 3, 7))]
    )
    return tmp_path / "root"


def test_a_built_corpus_is_its_tables_and_a_summary_written_last(root: Path, tmp_path: Path):
    options = {"csv": "t.csv", "caption_column": "text"}
    out = str(tmp_path / "out")
    summary = build_corpus("folder", str(root), out, options, missing="reject", rows_per_shard=2)
    assert {key: summary[key] for key in ("corpus", "clips", "shards", "captions", "rejects")} == {
        "corpus": "folder",
        "clips": 5,
        "shards": 3,
        "captions": 2,
        "rejects": {"missing": 1},
    }
    assert storage.read_json(f"{out}/corpus.json") == summary
    assert read_manifest(out).rows == 5
    assert storage.read_table(f"{out}/rejects.parquet")["clip_id"].to_pylist() == ["folder/7"]
    assert storage.read_table(f"{out}/clips")["clip_id"].to_pylist() == [f"folder/{index}" for index in range(5)]


def test_building_again_gives_the_same_files(root: Path, tmp_path: Path):
    first, second = (
        build_corpus("folder", str(root), str(tmp_path / name), {"csv": "t.csv"}, missing="keep") for name in "ab"
    )
    assert read_manifest(first["output"]).shards == read_manifest(second["output"]).shards


def test_a_failed_build_leaves_no_summary(root: Path, tmp_path: Path):
    out = str(tmp_path / "out")
    build_corpus("folder", str(root), out)
    with pytest.raises(DataError, match=r"line 7: no file '7\.wav'"):
        build_corpus("folder", str(root), out, {"csv": "t.csv"})
    assert not storage.exists(f"{out}/corpus.json")
    assert not storage.exists(f"{out}/clips/manifest.json")


def test_the_synthetic_corpus_is_made_from_its_options_and_its_parts_are_tables(tmp_path: Path):
    options = {"teacher_clips": 2, "wild_clips": 3, "test_clips_per_class": 1, "validation_clips": 1}
    options |= {"extra_captions": 2, "min_seconds": 0.5, "max_seconds": 0.6, "broken_share": 0}
    out = str(tmp_path / "out")
    assert build_corpus("synthetic", "", out, options)["clips"]["wild"] == 3
    info = find_corpus("synthetic")
    for name, (corpus, chosen) in info.sources.items():
        clips, captions, _ = read_corpus(corpus, out, chosen)
        assert len(clips) == {"teacher": 2, "held_out": 1, "wild": 3, "test": 15, "captions": 0}[name]
        assert bool(len(captions)) == (name in ("teacher", "held_out", "captions"))
    assert len(find_corpus("clips_table").hidden(out).clips) == 3
    with pytest.raises(ConfigError, match="corpus 'synthetic' is made from its options alone"):
        build_corpus("synthetic", out, out)
    with pytest.raises(ConfigError, match="corpus 'synthetic' is made, not read"):
        open_corpus("synthetic", out)


def test_a_corpus_that_is_read_needs_a_root(tmp_path: Path):
    with pytest.raises(ConfigError, match="corpus 'esc50': needs a root; there must be meta/esc50"):
        build_corpus("esc50", "", str(tmp_path / "out"))


def test_captions_alone_make_only_a_captions_table(root: Path, tmp_path: Path):
    summary = build_corpus("captions", str(root), str(tmp_path / "out"), {"text_column": "text"})
    assert (summary["clips"], summary["captions"]) == (0, 2)
    assert len(storage.read_table(f"{summary['output']}/captions.parquet")) == 2
    with pytest.raises(ConfigError, match="corpus 'captions' has no audio"):
        open_corpus("captions", str(root))
