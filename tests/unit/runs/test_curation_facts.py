from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.corpora.rows import caption_id
from raysem.curation.match_shards import MatchShards
from raysem.curation.neighbour_shards import NeighbourShards, neighbour_shards
from raysem.curation.pair_shards import SelectShards
from raysem.curation.selection import SelectionSettings
from raysem.errors import DataError
from raysem.ledger import Ledger
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.runs import curation_facts, roles
from raysem.runs.curation_facts import DOMAIN, StatisticsInputs
from raysem.tables import REJECTS
from raysem.text.prompts import PromptSettings

TEXTS = {"a dog barks": ["dog"], "rain falls": ["rain"], "a cat": [], "dog in rain": ["dog", "rain"]}
IDS = {text: caption_id(text) for text in TEXTS}
HIDDEN = {"c0": ["Dog"], "c1": ["rain"], "c2": ["cat"], "c4": ["dog"]}
CLIPS = ["c0", "c1", "c2", "c3", "c4"]
FLOOR, THRESHOLD = 0.2, 0.7


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    matrix = np.array(rows, np.float64)
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Five clips in two shards and four captions, matched, ranked, selected, with neighbours and a domain."""

    def __init__(self, root: Path, write_part: Callable[..., str], write_embeddings: Callable[..., str]):
        self.root = str(root)
        self.audio_AD = unit((1, 0, 0), (0, 1, 0), (0, 0.2, 1), (1, 1, 0), (1, 0.1, 0.5))
        texts = sorted(TEXTS, key=lambda text: IDS[text])
        vectors = {
            "a dog barks": (1, 0.1, 0),
            "rain falls": (0.1, 1, 0),
            "a cat": (0, 0.3, 1),
            "dog in rain": (1, 1, 0.2),
        }
        self.text_CD = unit(*(vectors[text] for text in texts))
        self.caption_ids = [IDS[text] for text in texts]
        self.wild = write_part(root / "wild", [{"clip_id": name} for name in CLIPS], hidden=HIDDEN, rows_per_shard=3)
        self.captions = write_part(root / "captions", captions=TEXTS)
        shards = {"shard_00000": (CLIPS[:3], self.audio_AD[:3]), "shard_00001": (CLIPS[3:], self.audio_AD[3:])}
        self.embedded = write_embeddings(root / "embed", shards)
        self.embedded_captions = write_embeddings(
            root / "embed_captions", {"a": (self.caption_ids, self.text_CD)}, "caption_id"
        )
        match = MatchShards(self.embedded, self.embedded_captions, FLOOR)
        for shard in shards:
            Ledger(f"{self.root}/scored").finish(*match(shard))
        self.pairs = f"{self.root}/match"
        curation_facts.rank_all(f"{self.root}/scored", self.pairs, self.embedded_captions)
        self.neighbours = f"{self.root}/neighbours"
        near = NeighbourShards(self.embedded, self.embedded_captions, 2)
        for shard in neighbour_shards(self.embedded, self.embedded_captions):
            Ledger(self.neighbours).finish(*near(shard))
        self.shards = shards
        self.settings = SelectionSettings(similarity_threshold=THRESHOLD)
        self.select("select", self.settings)
        rows = [
            {"caption_id": key, "similarity": 0.5 + 0.1 * index, "label": "rain" if "rain" in text else "dog"}
            for index, (key, text) in enumerate(zip(self.caption_ids, texts, strict=True))
        ]
        storage.write_table(f"{self.root}/domain/domain.parquet", pa.Table.from_pylist(rows, schema=DOMAIN))
        self.domain = f"{self.root}/domain"
        self.inputs = StatisticsInputs(
            pairs=self.pairs,
            captions=self.captions,
            wild=self.wild,
            domain=self.domain,
            neighbours=self.neighbours,
            selections={"select/DU_0.7": f"{self.root}/select"},
            thresholds={"select/DU_0.7": THRESHOLD},
            listening="select/DU_0.7",
            floor=FLOOR,
            num_clips=len(CLIPS),
            num_captions=len(TEXTS),
            hubness_k=2,
            per_class=2,
            classes=5,
        )

    def select(self, name: str, settings: SelectionSettings, excluded: str | None = None) -> str:
        """The folder of the pairs that a rule keeps."""
        select = SelectShards(
            pairs=self.pairs,
            clips={storage.name_of(file): file for file in roles.clip_shards(self.wild)},
            captions=roles.caption_shards(self.captions),
            settings=settings,
            facts=curation_facts.facts_for(self.pairs, settings, None),
            teacher="weights",
            excluded=excluded,
        )
        for shard in self.shards:
            Ledger(f"{self.root}/{name}").finish(*select(shard))
        return f"{self.root}/{name}"

    def cosines(self) -> dict[tuple[str, str], float]:
        cosine_AC = self.audio_AD @ self.text_CD.T
        pairs = {
            (clip, text): cosine_AC[a, c] for a, clip in enumerate(CLIPS) for c, text in enumerate(self.caption_ids)
        }
        return {pair: float(value) for pair, value in pairs.items() if value >= FLOOR}

    def statistics(self, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        folder = f"{self.root}/statistics"
        curation_facts.statistics(folder, replace(self.inputs, **changes))
        return storage.read_json(f"{folder}/statistics.json"), storage.read_json(f"{folder}/listening.json")


@pytest.fixture
def world(tmp_path: Path, write_part: Callable[..., str], write_embeddings: Callable[..., str]) -> World:
    return World(tmp_path, write_part, write_embeddings)


def verdict(clip: str, caption: str) -> bool | None:
    """Slow and clear: whether a pair is right, None where either side has no label."""
    text = next(text for text, key in IDS.items() if key == caption)
    labels = {label.lower() for label in HIDDEN.get(clip, [])}
    return bool(labels & set(TEXTS[text])) if labels and TEXTS[text] else None


def test_what_each_threshold_keeps_is_counted_as_a_slow_twin_counts(world: World):
    found, _ = world.statistics()
    cosines = world.cosines()
    assert sum(found["bin_counts"]) == len(cosines)
    for place in (0, 20, 77, 125, 160, 199):
        threshold = found["sweep_thresholds"][place]
        kept = {pair for pair, value in cosines.items() if value >= np.float32(threshold)}
        judged = [verdict(*pair) for pair in kept if verdict(*pair) is not None]
        assert found["kept_pairs"][place] == len(kept)
        assert found["kept_clips"][place] == len({clip for clip, _ in kept})
        assert found["precision"][place] == (pytest.approx(sum(judged) / len(judged)) if judged else None)


def test_a_pair_exactly_at_a_threshold_is_counted_as_kept_as_selection_does(world: World):
    file = Ledger(world.pairs).files()[0]
    table = storage.read_table(file)
    at = pa.array([0.7] * len(table), pa.float32())  # below 0.7 as a float64
    storage.write_table(file, table.set_column(2, "similarity", at))
    found, listening = world.statistics(floor=0.5)
    place = found["sweep_thresholds"].index(0.7)
    above = [value for (clip, _), value in world.cosines().items() if clip in ("c3", "c4") and value >= 0.7]
    assert found["kept_pairs"][place] == len(table) + len(above)
    rejected = [item["clip_id"] for entry in listening["classes"] for item in entry["rejected"]]
    assert not {"c0", "c1", "c2"} & set(rejected)


def test_an_improvement_set_is_described_in_numbers(world: World):
    found = world.statistics()[0]["improvement_sets"]["select/DU_0.7"]
    kept = [pair for pair, value in world.cosines().items() if value >= THRESHOLD]
    clips, captions = {clip for clip, _ in kept}, {caption for _, caption in kept}
    judged = [verdict(*pair) for pair in kept if verdict(*pair) is not None]
    assert (found["num_pairs"], found["num_clips"], found["num_captions"]) == (len(kept), len(clips), len(captions))
    assert (found["name"], found["strategy"], found["threshold"]) == ("DU_0.7", "DU", THRESHOLD)
    assert found["precision"] == pytest.approx(sum(judged) / len(judged))
    assert found["pairs_judged"] == len(judged)
    assert sum(int(size) * count for size, count in found["captions_per_clip"].items()) == len(kept)
    assert sum(int(size) * count for size, count in found["clips_per_caption"].items()) == len(kept)
    assert found["frequent_captions"][0][1] == max(sum(c == name for _, c in kept) for name in captions)


def test_hubness_counts_who_is_among_the_nearest_before_any_selection(world: World):
    found = world.statistics()[0]["hubness"]
    cosine_AC = world.audio_AD @ world.text_CD.T
    nearest = np.argsort(-cosine_AC, axis=1)[:, :2]
    often = np.bincount(nearest.reshape(-1), minlength=4)
    assert found["k"] == 2
    assert found["captions"]["share_in_no_list"] == pytest.approx((often == 0).mean())
    assert found["captions"]["hubs"][0]["share_of_lists"] == pytest.approx(often.max() / len(CLIPS))
    assert found["captions"]["hubs"][0]["name"] in TEXTS


def test_without_labels_there_is_no_precision(world: World, tmp_path: Path, write_part: Callable[..., str]):
    wild = write_part(tmp_path / "unlabelled", [{"clip_id": name} for name in CLIPS], hidden={})
    found, _ = world.statistics(wild=wild)
    assert found["precision"] is None
    assert found["improvement_sets"]["select/DU_0.7"]["precision"] is None


def test_pairs_to_hear_are_each_clips_nearest_on_the_right_side_of_the_threshold(world: World):
    _, listening = world.statistics()
    assert listening["threshold"] == THRESHOLD
    best_of = {clip: max(value for (c, _), value in world.cosines().items() if c == clip) for clip in CLIPS}
    assert {entry["label"] for entry in listening["classes"]} <= {"dog", "rain"}
    for entry in listening["classes"]:
        heard = [item["clip_id"] for kind in ("best", "borderline", "rejected") for item in entry[kind]]
        assert len(heard) == len(set(heard))
        for kind in ("best", "borderline", "rejected"):
            assert len(entry[kind]) <= 2
            for item in entry[kind]:
                assert item["similarity"] == pytest.approx(best_of[item["clip_id"]])
                assert (item["similarity"] >= THRESHOLD) == (kind != "rejected")
                assert item["caption"] in TEXTS
        assert [i["similarity"] for i in entry["best"]] == sorted(
            (i["similarity"] for i in entry["best"]), reverse=True
        )


def test_a_pair_above_the_threshold_that_another_rule_left_out_is_not_heard_as_kept(world: World):
    mutual = world.select("mutual", SelectionSettings(similarity_threshold=THRESHOLD, mutual_neighbours=1))
    kept = {
        (row["clip_id"], caption["text"])
        for file in Ledger(mutual).files()
        for row in storage.read_table(file).to_pylist()
        for caption in row["captions"]
    }
    name = "select/mutual"
    _, listening = world.statistics(selections={name: mutual}, thresholds={name: THRESHOLD}, listening=name)
    heard = {
        kind: {(item["clip_id"], item["caption"]) for entry in listening["classes"] for item in entry[kind]}
        for kind in ("best", "borderline", "rejected")
    }
    assert heard["best"] | heard["borderline"] <= kept
    assert heard["best"]
    assert not {clip for clip, _ in heard["rejected"]} & {clip for clip, _ in kept}
    _, by_threshold = world.statistics()
    above = {
        item["clip_id"] for entry in by_threshold["classes"] for kind in ("best", "borderline") for item in entry[kind]
    }
    assert above & {clip for clip, _ in heard["rejected"]}


def test_a_clip_that_was_screened_out_is_not_heard_as_kept_or_as_below_the_threshold(world: World, tmp_path: Path):
    def heard(listening: dict[str, Any]) -> set[str]:
        kinds = ("best", "borderline", "rejected")
        return {item["clip_id"] for entry in listening["classes"] for kind in kinds for item in entry[kind]}

    counted, before = world.statistics()
    assert {"c0", "c1"} < heard(before)
    rejects = [{"clip_id": name, "stage": "screen", "outcome": "duplicate", "reason": ""} for name in ("c0", "c1")]
    screened = str(tmp_path / "rejects.parquet")
    storage.write_table(screened, pa.Table.from_pylist(rejects, schema=REJECTS))
    selection = world.select("screened", world.settings, excluded=screened)
    still_counted, after = world.statistics(screened=screened, selections={"select/DU_0.7": selection})
    assert heard(after) == heard(before) - {"c0", "c1"}
    assert still_counted["bin_counts"] == counted["bin_counts"]


def test_without_a_domain_there_is_nothing_to_hear(world: World):
    assert world.statistics(domain=None)[1]["classes"] == []


def test_no_more_classes_are_heard_than_asked_for(world: World):
    assert len(world.statistics(classes=1)[1]["classes"]) == 1


def test_the_nearest_label_of_each_caption_is_that_of_a_slow_twin(
    world: World,
    tmp_path: Path,
    tiny_checkpoint: str,
    write_part: Callable[..., str],
    write_embeddings: Callable[..., str],
):
    source = TeacherSource(location=tiny_checkpoint)
    model = load_teacher(source, "cpu")
    texts = list(TEXTS)
    embedded = write_embeddings(
        tmp_path / "texts", {"a": ([IDS[text] for text in texts], model.embed_texts(texts))}, "caption_id"
    )
    sets = [
        write_part(tmp_path / "one", [{"clip_id": "x", "labels": ["Dog_bark"]}, {"clip_id": "y", "labels": None}]),
        write_part(tmp_path / "two", [{"clip_id": "x", "labels": ["rain", "Dog_bark"]}]),
    ]
    folder = str(tmp_path / "found")
    counts = curation_facts.caption_domain(folder, embedded, sets, source, PromptSettings(template="sound of {label}"))
    assert counts == {"labels": 2, "captions": 4}
    label_KD = model.embed_texts(["sound of dog bark", "sound of rain"]).astype(np.float64)
    rows = storage.read_table(f"{folder}/domain.parquet").to_pylist()
    for row, text in zip(rows, texts, strict=True):
        cosine_K = label_KD @ model.embed_texts([text])[0]
        assert row["caption_id"] == IDS[text]
        assert row["label"] == ["Dog_bark", "rain"][int(cosine_K.argmax())]
        assert row["similarity"] == pytest.approx(cosine_K.max(), abs=1e-5)
    unlabelled = write_part(tmp_path / "none", [{"clip_id": "x"}])
    with pytest.raises(DataError, match="its evaluation sets have no labels"):
        curation_facts.caption_domain(folder, embedded, [unlabelled], source, PromptSettings())


def test_captions_near_a_label_are_kept_at_the_threshold_itself(world: World):
    assert set(curation_facts.kept_captions(world.domain, 0.7)) == set(world.caption_ids[2:])
    ads = SelectionSettings(strategy="ADS", caption_threshold=0.7)
    assert curation_facts.facts_for(world.pairs, ads, world.domain).kept_captions == frozenset(world.caption_ids[2:])
    with pytest.raises(DataError, match=r"curation\.caption_threshold 0\.95: no caption is that near to a label"):
        curation_facts.facts_for(world.pairs, ads.model_copy(update={"caption_threshold": 0.95}), world.domain)
    with pytest.raises(DataError, match="needs evaluation sets with labels"):
        curation_facts.kept_captions(None, 0.5)


def test_annotated_shards_count_every_caption_once(world: World, tmp_path: Path, write_part: Callable[..., str]):
    part = write_part(
        tmp_path / "teacher", [{"clip_id": "t0", "captions": list(TEXTS)}, {"clip_id": "t1", "captions": None}]
    )
    clips = {storage.name_of(file): file for file in roles.clip_shards(part)}
    settings = SelectionSettings(strategy="DS", caption_threshold=0.7)
    work = curation_facts.AnnotatedShards(clips=clips, domain=world.domain, settings=settings, teacher="weights")
    record, tables = work("shard_00000")
    assert record.outcomes == {"pairs_kept": 2, "pairs_left": 2}
    (row,) = tables["shards"].to_pylist()
    assert {caption["caption_id"] for caption in row["captions"]} == set(world.caption_ids[2:])


def test_ranking_refuses_a_match_without_a_pair(world: World, tmp_path: Path, write_embeddings: Callable[..., str]):
    far = write_embeddings(tmp_path / "far", {"a": (["c9"], unit((-1, -1, -1)))})
    scored = str(tmp_path / "none")
    Ledger(scored).finish(*MatchShards(far, world.embedded_captions, FLOOR)("a"))
    with pytest.raises(DataError, match=r"no pair of clip and caption reaches the floor; lower curation\."):
        curation_facts.rank_all(scored, str(tmp_path / "ranked"), world.embedded_captions)


def test_screening_leaves_out_overlap_with_evaluation_and_later_duplicates(
    tmp_path: Path, write_embeddings: Callable[..., str]
):
    pool = write_embeddings(
        tmp_path / "pool",
        {
            "a": (["p0", "p1", "p2"], unit((1, 0, 0), (0, 1, 0), (0, 0, 1))),
            "b": (["p3", "p4"], unit((0.01, 1, 0), (1, 1, 1))),
            "c": ([], np.zeros((0, 3))),
        },
    )
    test = write_embeddings(tmp_path / "test", {"a": (["e0"], unit((1, 0.01, 0)))})
    folder = str(tmp_path / "screen")
    found = curation_facts.screen(folder, pool, {"esc": test}, 0.95, 0.95)
    assert found["outcomes"] == {"excluded_overlap": 1, "duplicate": 1, "kept": 3}
    rows = storage.read_table(f"{folder}/rejects.parquet").to_pylist()
    assert [(row["clip_id"], row["stage"], row["outcome"]) for row in rows] == [
        ("p0", "screen", "excluded_overlap"),
        ("p3", "screen", "duplicate"),
    ]
    assert "p1" in rows[1]["reason"]
    assert "e0" in rows[0]["reason"]
    assert curation_facts.screen(folder, pool, {"esc": test}, None, 0.95)["outcomes"] == {"duplicate": 1, "kept": 4}
    only = curation_facts.screen(folder, pool, {"esc": test}, 0.95, None)
    assert only["outcomes"] == {"excluded_overlap": 1, "kept": 4}
