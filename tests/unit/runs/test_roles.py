from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from raysem import config, storage
from raysem.config import build
from raysem.corpora.built import HiddenLabels, write_hidden_labels
from raysem.corpora.rows import caption_id
from raysem.errors import ConfigError, DataError
from raysem.runs import roles
from raysem.runs.corpus_stages import corpus_stages
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.launch import RECIPES
from raysem.runs.roles import CorpusSource, build_part, part_of, place_of
from raysem.tables import CAPTIONS, CLIPS


def source(**content: Any) -> CorpusSource:
    return build(CorpusSource, {"corpus": "clips_table", "root": "/x", **content})


def identity(settings: CorpusSource) -> dict[str, Any]:
    return roles.identity(settings, {})


def part_of_made(name: str) -> CorpusSource:
    return build(CorpusSource, {"corpus": "synthetic", "part": name})


def make(folder: Path, *sources: CorpusSource, hide: bool = False, seed: int = 0, rows: int = 2) -> dict[str, Any]:
    return build_part(str(folder), sources, seed=seed, rows_per_shard=rows, hide_labels=hide)


def clips_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in roles.clip_shards(str(folder)) for row in storage.read_table(file).to_pylist()]


def captions_of(folder: Path) -> dict[str, str]:
    files = roles.caption_shards(str(folder))
    return {row["caption_id"]: row["text"] for file in files for row in storage.read_table(file).to_pylist()}


@pytest.fixture
def table(tmp_path: Path, write_part) -> str:
    rows = [
        {
            "clip_id": f"rec{index // 2}-{index}",
            "labels": ["dog_bark" if index % 2 else "Rain"],
            "captions": [f"caption {index % 3}"],
            "fold": index % 5,
            "split": "train" if index < 6 else "test",
            "source": "made",
        }
        for index in range(10)
    ]
    return write_part(tmp_path / "table", rows)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"corpus": "esc5", "root": "/x"}, "no corpus 'esc5'; there are"),
        ({"corpus": "esc50"}, "root: is needed for corpus esc50"),
        ({"corpus": "esc50", "root": "/x", "options": {"fold": 1}}, "corpus esc50: fold: no such key"),
        ({"corpus": "synthetic", "part": "wilds"}, "part: expected one of teacher, held_out, wild, test, captions"),
        (
            {"corpus": "synthetic", "part": "wild", "root": "/x"},
            "corpus synthetic is made by the run: root and",
        ),
        ({"corpus": "esc50", "root": "/x", "part": "wild"}, "part: corpus esc50 has no parts"),
        ({"corpus": "clips_table", "root": "/x", "options": {"prt": "a"}}, "corpus clips_table: prt: no such key"),
        ({"corpus": "clips_table", "root": "/x", "share": [0.5, 0.5]}, "share: expected [low, high]"),
        ({"corpus": "clips_table", "root": "/x", "group_pattern": "("}, "group_pattern: not a regular expression"),
        ({"corpus": "clips_table", "root": "/x", "group_pattern": "a"}, "group_pattern: needs a group"),
        ({"corpus": "clips_table", "root": "/x", "label_templates": ["x"]}, "label_templates: each template needs"),
        ({"corpus": "clips_table", "root": "/x", "missing": "ignore"}, "missing: expected 'error', 'reject' or 'keep'"),
        ({"corpus": "esc50", "root": "/x", "label_map": "esc5"}, "label_map: no label map 'esc5'; there are esc50_aud"),
    ],
)
def test_a_wrong_source_is_refused_before_anything_is_read(content: dict[str, Any], reason: str):
    with pytest.raises(ConfigError) as error:
        build(CorpusSource, content)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_is_sharded_with_its_captions_and_what_is_known_of_labels(table: str, tmp_path: Path):
    counts = make(tmp_path / "part", source(root=table))
    assert counts == {"clips": 10, "shards": 5, "captions": 3, "rejected": 0}
    assert [row["clip_id"] for row in clips_of(tmp_path / "part")] == [f"rec{i // 2}-{i}" for i in range(10)]
    assert captions_of(tmp_path / "part") == {caption_id(f"caption {i}"): f"caption {i}" for i in range(3)}
    labels = storage.read_table(str(tmp_path / "part" / "caption_labels.parquet")).to_pylist()
    assert {tuple(row["labels"]) for row in labels} == {("Rain", "dog_bark")}


def test_the_pool_has_neither_labels_nor_captions_which_lie_beside_it(table: str, tmp_path: Path):
    counts = make(tmp_path / "part", source(root=table), hide=True)
    assert counts["captions"] == 0
    assert all(row["labels"] is None and row["captions"] is None for row in clips_of(tmp_path / "part"))
    hidden = storage.read_table(str(tmp_path / "part" / "clip_labels.parquet")).to_pylist()
    assert len(hidden) == 10
    assert hidden[1] == {"clip_id": "rec0-1", "labels": ["dog_bark"]}


def test_labels_hidden_beside_a_table_are_put_aside_and_never_in_the_clips(table: str, tmp_path: Path):
    hidden = pa.table({"clip_id": ["rec0-0", "rec0-1"], "labels": [["Siren"], []]})
    write_hidden_labels(table, HiddenLabels(hidden, {caption_id("caption 1"): ("Wind",)}))
    for hide in (True, False):
        make(tmp_path / str(hide), source(root=table), hide=hide)
        known = storage.read_table(str(tmp_path / str(hide) / "clip_labels.parquet")).to_pylist()
        assert [row["labels"] for row in known[:3]] == [["Siren"], [], ["Rain"]]
        assert "Siren" not in str(clips_of(tmp_path / str(hide)))
    texts = storage.read_table(str(tmp_path / "False" / "caption_labels.parquet")).to_pylist()
    assert ["Wind" in row["labels"] for row in texts] == [row["caption_id"] == caption_id("caption 1") for row in texts]


def test_the_parts_of_the_synthetic_corpus_are_tables_of_its_folder(tmp_path: Path, write_part):
    made = str(tmp_path / "made")
    write_part(f"{made}/wild", [{"clip_id": "wild_0", "labels": []}])
    write_part(f"{made}/validation", [{"clip_id": "validation_0", "captions": ["rain falls"]}])
    texts = pa.table({"caption_id": ["caption_0"], "text": ["rain falls"], "source": ["pool"]})
    storage.write_table(f"{made}/captions.parquet", texts)
    hidden = pa.table({"clip_id": ["wild_0"], "labels": [["Rain"]]})
    write_hidden_labels(made, HiddenLabels(hidden, {"caption_0": ("Rain",)}))
    found = {}
    for name in ("wild", "held_out", "captions"):
        folder = tmp_path / name
        make(folder, part_of_made(name).read_from(made), hide=name == "wild")
        tables = [storage.read_table(str(folder / f"{kind}_labels.parquet")) for kind in ("clip", "caption")]
        found[name] = [dict(zip(*table.to_pydict().values(), strict=True)) for table in tables]
    of_caption = {caption_id("rain falls"): ["Rain"]}
    assert found == {
        "wild": [{"wild_0": ["Rain"]}, {}],
        "held_out": [{"validation_0": []}, of_caption],
        "captions": [{}, of_caption],
    }


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"folds": [0, 1]}, {0, 1, 5, 6}),
        ({"splits": ["test"]}, {6, 7, 8, 9}),
        ({"labels": ["Rain"]}, {0, 2, 4, 6, 8}),
        ({"labels": ["Rain"], "splits": ["test"]}, {6, 8}),
    ],
)
def test_filters_are_judged_together(wanted: dict[str, Any], ids: set[int], table: str, tmp_path: Path):
    make(tmp_path / "part", source(root=table, **wanted))
    assert {row["clip_id"] for row in clips_of(tmp_path / "part")} == {f"rec{i // 2}-{i}" for i in ids}


def test_shares_that_do_not_touch_part_the_clips_and_keep_groups_together(table: str, tmp_path: Path):
    found = []
    for name, share in (("a", [0, 0.4]), ("b", [0.4, 1])):
        make(tmp_path / name, source(root=table, share=share, group_pattern="^(rec[0-9]+)-"), seed=3)
        found.append({row["clip_id"] for row in clips_of(tmp_path / name)})
    assert found[0] | found[1] == {f"rec{i // 2}-{i}" for i in range(10)}
    assert not {name.split("-")[0] for name in found[0]} & {name.split("-")[0] for name in found[1]}


def test_a_smaller_part_of_a_source_lies_within_a_larger_one(table: str):
    (half,) = part_of([source(root=table, share=[0.2, 0.6])], 0.5)
    assert half.share == pytest.approx((0.2, 0.4))
    assert part_of([source(root=table)], 1.0) == (source(root=table),)


def test_captions_are_made_from_labels(table: str, tmp_path: Path):
    templates = ["a {label} here", "{label} {sic}", "so much {label}"]
    make(tmp_path / "all", source(root=table, captions="labels", label_templates=templates))
    assert clips_of(tmp_path / "all")[1]["captions"] is not None
    assert set(clips_of(tmp_path / "all")[1]["captions"]) == {"a dog bark here", "dog bark {sic}", "so much dog bark"}
    make(tmp_path / "two", source(root=table, captions="labels", label_templates=templates, captions_per_clip=2))
    drawn = [tuple(row["captions"]) for row in clips_of(tmp_path / "two")]
    assert all(len(texts) == 2 for texts in drawn)
    assert len(set(drawn)) > 2
    make(tmp_path / "none", source(root=table, captions="none"))
    assert all(row["captions"] == [] for row in clips_of(tmp_path / "none"))


@pytest.fixture
def animals(tmp_path: Path) -> str:
    file = tmp_path / "animals.csv"
    file.write_text("label,class\nRain,Rain\ndog_bark,Dog\ndog_bark,Bark\nSiren,Alarm\nWind,Air\n")
    return str(file)


def test_mapped_labels_are_those_of_the_clips_and_of_captions_made_from_them(table: str, tmp_path: Path, animals: str):
    settings = source(root=table, label_map=animals, captions="labels", label_templates=["a {label}"])
    make(tmp_path / "part", settings)
    rows = clips_of(tmp_path / "part")
    assert [row["labels"] for row in rows[:2]] == [["Rain"], ["Dog", "Bark"]]
    assert [row["captions"] for row in rows[:2]] == [["a rain"], ["a dog", "a bark"]]
    assert [row["clip_id"] for row in rows] == [f"rec{i // 2}-{i}" for i in range(10)]
    known = storage.read_table(str(tmp_path / "part" / "caption_labels.parquet")).to_pylist()
    assert {row["caption_id"]: row["labels"] for row in known}[caption_id("a bark")] == ["Bark", "Dog"]


def test_clips_are_filtered_by_the_corpuss_own_labels(table: str, tmp_path: Path, animals: str):
    make(tmp_path / "part", source(root=table, label_map=animals, labels=["dog_bark"]))
    assert [row["labels"] for row in clips_of(tmp_path / "part")] == [["Dog", "Bark"]] * 5
    with pytest.raises(DataError, match="no clip is left"):
        make(tmp_path / "none", source(root=table, label_map=animals, labels=["Dog"]))


def test_hidden_labels_are_mapped_too(table: str, tmp_path: Path, animals: str):
    hidden = pa.table({"clip_id": ["rec0-0", "rec0-1"], "labels": [["Siren", "Rain"], []]})
    write_hidden_labels(table, HiddenLabels(hidden, {caption_id("caption 1"): ("Wind",)}))
    for hide in (True, False):
        make(tmp_path / str(hide), source(root=table, label_map=animals), hide=hide)
        known = storage.read_table(str(tmp_path / str(hide) / "clip_labels.parquet")).to_pylist()
        assert [row["labels"] for row in known[:4]] == [["Alarm", "Rain"], [], ["Rain"], ["Dog", "Bark"]]
    assert all(row["labels"] is None for row in clips_of(tmp_path / "True"))
    texts = storage.read_table(str(tmp_path / "False" / "caption_labels.parquet")).to_pylist()
    assert ["Air" in row["labels"] for row in texts] == [row["caption_id"] == caption_id("caption 1") for row in texts]
    assert "Wind" not in str(texts)


def test_one_source_of_a_part_is_mapped_and_another_is_not(table: str, tmp_path: Path, animals: str, write_part):
    other = write_part(tmp_path / "other", [{"clip_id": "other", "labels": ["dog_bark"]}])
    make(tmp_path / "part", source(root=table, label_map=animals, folds=[1]), source(root=other))
    found = {row["clip_id"]: row["labels"] for row in clips_of(tmp_path / "part")}
    assert found == {"rec0-1": ["Dog", "Bark"], "rec3-6": ["Rain"], "other": ["dog_bark"]}


def test_a_label_that_the_map_does_not_know_is_refused(table: str, tmp_path: Path):
    file = tmp_path / "mine.csv"
    file.write_text("label,class\nRain,Rain\n")
    with pytest.raises(DataError, match=r"mine\.csv: label 'dog_bark' has no class; add a line"):
        make(tmp_path / "part", source(root=table, label_map=str(file)))
    counts = make(tmp_path / "rain", source(root=table, label_map=str(file), labels=["Rain"]))
    assert counts["clips"] == 5


def test_the_digests_of_recipes_without_a_map_are_those_from_before_there_were_maps():
    settings = build(CorpusSource, {"corpus": "esc50", "root": "/nowhere/esc50", "folds": [5]})
    assert config.digest(settings) == config.digest(identity(settings)) == "c89adca3ee72"
    roots = [f"corpora.roots.{name}=/nowhere/{name}" for name in ("esc50", "wild")]
    recipe = config.load_recipe(CurateAndTrainRecipe, RECIPES / "esc50.yaml", roots)
    stage = corpus_stages(recipe, "/nowhere")["evaluation/esc50_fold5"]
    assert stage.digest == "06cb3a5e0f96"
    mapped = config.load_recipe(
        CurateAndTrainRecipe,
        RECIPES / "esc50.yaml",
        [*roots, "corpora.evaluation.esc50_fold5.label_map=esc50_audioset"],
    )
    assert corpus_stages(mapped, "/nowhere")["evaluation/esc50_fold5"].digest != stage.digest


def test_an_identity_follows_what_a_users_map_says_and_not_its_reasons(animals: str):
    settings = source(root="s3://bucket/x", label_map=animals)
    before = identity(settings)
    assert identity(settings) == before
    assert before.keys() - identity(source(root="s3://bucket/x")).keys() == {"label_map", "label_classes"}
    text = Path(animals).read_text()
    Path(animals).write_text(text.replace("label,class", "label,class,reason"))
    assert identity(settings) == before
    Path(animals).write_text(text.replace("Alarm", "Siren"))
    assert identity(settings) != before
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        identity(source(label_map="/nowhere/none.csv"))


def test_a_source_with_a_map_is_read_back_from_its_own_words(animals: str):
    for settings in (source(label_map=animals), source()):
        assert build(CorpusSource, config.plain(settings)) == settings


def test_the_same_sources_give_the_same_bytes_and_another_seed_another_draw(table: str, tmp_path: Path):
    settings = source(root=table, share=[0, 0.5])
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path / name, settings, seed=seed)
    manifests = [storage.read_json(str(tmp_path / name / "clips" / "manifest.json")) for name in "abc"]
    assert manifests[0] == manifests[1]
    assert manifests[0] != manifests[2]


def test_a_clip_id_of_two_sources_is_refused(table: str, tmp_path: Path):
    with pytest.raises(DataError, match="stands twice"):
        make(tmp_path / "part", source(root=table), source(root=table))


def test_a_part_that_the_filters_leave_empty_is_refused(table: str, tmp_path: Path):
    with pytest.raises(DataError, match="clips_table: no clip is left after the filters"):
        make(tmp_path / "part", source(root=table, labels=["cat"]))


def test_a_corpus_with_audio_is_streamed_and_its_rejects_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for index in range(4):
        soundfile.write(folder / f"{index}.wav", np.full(400, 0.1, np.float32), 8000)
    (folder / "clips.csv").write_text("file,caption\n" + "".join(f"{i}.wav,sound {i}\n" for i in range(5)))
    monkeypatch.setattr(roles, "read_corpus", None)  # which holds all clips in memory
    settings = build(
        CorpusSource,
        {
            "corpus": "folder",
            "root": str(folder),
            "missing": "reject",
            "options": {"csv": "clips.csv", "caption_column": "caption"},
        },
    )
    counts = make(tmp_path / "part", settings)
    assert counts == {"clips": 4, "shards": 2, "captions": 4, "rejected": 1}
    rejects = storage.read_table(str(tmp_path / "part" / "rejects.parquet")).to_pylist()
    assert [row["outcome"] for row in rejects] == ["missing"]


def test_a_stream_is_not_gathered_before_it_is_written(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def reads(*_: Any) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
        for index in range(3):
            asked.append(index)
            row = {"clip_id": str(index), "audio": {"bytes": None, "path": "x"}, "captions": []}
            yield pa.Table.from_pylist([row], schema=CLIPS), CAPTIONS.empty_table(), roles.REJECTS.empty_table()

    def shards(tables: Iterator[pa.Table], *_: Any, **__: Any) -> None:
        next(tables)
        raise InterruptedError

    monkeypatch.setattr(roles, "_read", reads)
    monkeypatch.setattr(roles, "write_shards", shards)
    with pytest.raises(InterruptedError):
        make(tmp_path / "part", source(root=table))
    assert asked == [0]


def test_a_corpus_of_captions_alone_gives_captions_and_no_clip(tmp_path: Path):
    (tmp_path / "texts.csv").write_text("caption\nA dog barks.\na dog barks\nrain\n")
    settings = build(CorpusSource, {"corpus": "captions", "root": str(tmp_path)})
    counts = make(tmp_path / "part", settings)
    assert (counts["clips"], counts["captions"]) == (0, 2)
    assert set(captions_of(tmp_path / "part").values()) == {"A dog barks.", "rain"}


def test_an_identity_follows_the_files_at_the_root(tmp_path: Path):
    settings = source(corpus="folder", root=str(tmp_path))
    (tmp_path / "x.wav").write_bytes(b"1234")
    before = identity(settings)
    assert identity(settings) == before
    (tmp_path / "x.wav").write_bytes(b"12345")
    assert identity(settings) != before


def test_a_root_of_several_sources_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listed: list[str] = []
    monkeypatch.setattr(roles, "digest_below", lambda root: listed.append(root) or "x")
    digests: dict[str, str] = {}
    first, second = (
        roles.identity(source(corpus="folder", root=str(tmp_path), folds=[fold]), digests) for fold in (1, 2)
    )
    assert listed == [str(tmp_path)]
    assert first["files"] == second["files"] == "x"
    assert first != second


def test_an_identity_of_a_built_table_lists_no_audio(table: str, write_part):
    before = identity(source(root=table))
    Path(table, "audio").mkdir()
    Path(table, "audio/0.wav").write_bytes(b"1")
    assert identity(source(root=table)) == before
    write_part(table, [{"clip_id": "other", "labels": []}])
    assert identity(source(root=table)) != before
    with pytest.raises(DataError, match="no manifest"):
        identity(source(root=str(Path(table, "audio"))))


def test_an_identity_reads_nothing_behind_a_uri_or_where_nothing_is():
    assert "files" not in identity(source(root="s3://bucket/x"))
    assert "files" not in identity(source(root="/nowhere/at/all"))


def test_places_are_even_and_fixed():
    places = [place_of(0, str(index)) for index in range(2000)]
    assert 0 <= min(places) < max(places) < 1
    assert np.mean(places) == pytest.approx(0.5, abs=0.03)
    assert place_of(0, "clip") != place_of(1, "clip")


def test_a_fold_that_no_clip_has_is_refused_with_those_that_there_are(table: str, tmp_path: Path):
    with pytest.raises(DataError) as error:
        make(tmp_path / "part", source(root=table, folds=[7, 9]))
    reason = f"clips_table {table}: no clip is in fold 7, 9: its clips are in folds 0, 1, 2, 3, 4"
    assert str(error.value) == reason


def test_a_corpus_without_a_fold_column_says_so_beside_one_that_has_it(table: str, tmp_path: Path, write_part):
    unfolded = write_part(tmp_path / "unfolded", [{"clip_id": "a", "labels": ["Rain"]}])
    with pytest.raises(DataError) as error:
        make(tmp_path / "part", source(root=table, folds=[1]), source(root=unfolded, folds=[1]))
    assert str(error.value) == f"clips_table {unfolded}: no clip is in fold 1: its clips have none (column fold)"


def test_a_fold_whose_clips_the_other_filters_leave_out_is_a_fold_that_is_there(table: str, tmp_path: Path):
    with pytest.raises(DataError, match=r"^clips_table: no clip is left after the filters$"):
        make(tmp_path / "part", source(root=table, folds=[1], splits=["dev"]))
    counts = make(tmp_path / "part", source(root=table, folds=[1, 7]))
    assert counts["clips"] == 2


def test_a_clip_without_a_fold_does_not_vanish_from_a_corpus_that_has_folds(tmp_path: Path, write_part):
    rows = [{"clip_id": "a", "labels": ["Rain"], "fold": 1}, {"clip_id": "b", "labels": ["Rain"], "fold": None}]
    mixed = write_part(tmp_path / "mixed", rows)
    with pytest.raises(DataError, match=r"folds are asked for, and some clips have none \(column fold\)"):
        make(tmp_path / "part", source(root=mixed, folds=[1]))
