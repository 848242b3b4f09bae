from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.corpora.rows import caption_id
from raysem.curation.pair_shards import SelectShards, pool_facts
from raysem.curation.selection import PoolFacts, SelectionSettings
from raysem.ledger import DoneRecord, Ledger
from raysem.sweeps.curated import CuratedCounts, LabelJudge, count_improvement_set, count_rules
from raysem.tables import CLIPS, REJECTS, SCORED_PAIRS, conform

CLIPS_PER_SHARD, SHARDS, CAPTIONS = 30, 3, 40
TEXTS = [f"sound {index}" for index in range(CAPTIONS)]
LABELS = ("dog", "cat", "rain")


class Pool:
    """Pairs of 90 clips with 40 captions, about a third of all; every seventh clip and fifth caption has no label."""

    def __init__(self, root: Path):
        generator = np.random.default_rng(0)
        self.root = root
        self.pairs, self.captions, self.wild = (str(root / name) for name in ("pairs", "captions", "wild"))
        self.clip_files: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        for shard in range(SHARDS):
            names = [f"clip_{shard}_{index:02d}" for index in range(CLIPS_PER_SHARD)]
            file = str(root / "clips" / f"s{shard}.parquet")
            clips = [{"clip_id": name, "audio": {"bytes": None, "path": "/nowhere.wav"}} for name in names]
            storage.write_table(file, conform(pa.Table.from_pylist(clips), CLIPS, "test"))
            self.clip_files[f"s{shard}"] = file
            own = []
            for name in names:
                kept = np.flatnonzero(generator.random(CAPTIONS) < 0.3)
                # rounded: several pairs lie exactly on a threshold
                values = np.sort(generator.uniform(0.3, 0.9, len(kept)).round(2))[::-1]
                for rank, (caption, value) in enumerate(zip(generator.permutation(kept), values, strict=True), 1):
                    own.append({"clip_id": name, "caption_id": caption_id(TEXTS[caption]), "similarity": float(value),
                                "rank_for_clip": rank, "rank_for_caption": 1})  # fmt: skip
            rows += own
            table = pa.Table.from_pylist(own).select(SCORED_PAIRS.names).cast(SCORED_PAIRS)
            Ledger(self.pairs).finish(DoneRecord(f"s{shard}", len(own)), {"shards": table})
        self.rows = rows
        storage.write_table(
            str(root / "captions" / "captions" / "all.parquet"),
            pa.table({"caption_id": [caption_id(text) for text in TEXTS], "text": TEXTS, "source": ["x"] * CAPTIONS}),
        )
        of_caption = {caption_id(text): [LABELS[i % 3]] for i, text in enumerate(TEXTS) if i % 5}
        clips_named = sorted({row["clip_id"] for row in rows})
        of_clip = {name: [LABELS[i % 3].upper(), "noise"] for i, name in enumerate(clips_named) if i % 7}
        self._labels(self.captions, "caption", of_caption)
        self._labels(self.wild, "clip", of_clip)
        self.of_caption, self.of_clip = of_caption, of_clip
        self.excluded = str(root / "rejects.parquet")
        rejects = [
            {"clip_id": name, "stage": "screen", "outcome": "duplicate", "reason": ""} for name in clips_named[:9]
        ]
        storage.write_table(self.excluded, pa.Table.from_pylist(rejects, schema=REJECTS))

    @staticmethod
    def _labels(folder: str, name: str, labels: dict[str, list[str]]) -> None:
        rows = [{f"{name}_id": key, "labels": value} for key, value in labels.items()]
        storage.write_table(storage.join(folder, f"{name}_labels.parquet"), pa.Table.from_pylist(rows))

    @property
    def judge(self) -> LabelJudge:
        return LabelJudge(self.captions, self.wild)

    def facts(self, rule: SelectionSettings) -> PoolFacts:
        kept = frozenset(caption_id(text) for text in TEXTS[::2]) if rule.strategy == "ADS" else None
        return pool_facts(self.pairs, rule, kept)

    def selected(self, rule: SelectionSettings, excluded: str | None = None) -> str:
        """The Improvement-Set of `rule`, as its stage writes it."""
        folder = str(self.root / "selected" / str(len(list(self.root.glob("selected/*")))))
        work = SelectShards(
            pairs=self.pairs, clips=self.clip_files, captions=[storage.join(self.captions, "captions", "all.parquet")],
            settings=rule, facts=self.facts(rule), teacher="t", excluded=excluded,
        )  # fmt: skip
        for shard in self.clip_files:
            record, tables = work(shard)
            Ledger(folder).finish(record, tables)
        return folder

    def count(self, rules: Sequence[SelectionSettings], excluded: str | None = None) -> list[CuratedCounts]:
        return count_rules(self.pairs, rules, self.facts, judge=self.judge, excluded=excluded)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(tmp_path_factory.mktemp("pool"))


THRESHOLDS = (0.3, 0.5, 0.55, 0.61, 0.9, 0.95)
Rules = Callable[[float], SelectionSettings]
RULES: dict[str, Rules] = {
    "plain": lambda t: SelectionSettings(similarity_threshold=t),
    "ADS": lambda t: SelectionSettings(strategy="ADS", similarity_threshold=t),
    "top": lambda t: SelectionSettings(similarity_threshold=t, top_k_per_clip=2),
    "ADS, top": lambda t: SelectionSettings(strategy="ADS", similarity_threshold=t, top_k_per_clip=1),
    "cap": lambda t: SelectionSettings(similarity_threshold=t, cap_per_caption=5, seed=1),
    "quantile": lambda t: SelectionSettings(similarity_threshold=t, quantile=0.5),
}


@pytest.mark.parametrize("name", RULES)
def test_one_pass_counts_what_the_stage_would_keep(name: str, pool: Pool):
    rules = [RULES[name](threshold) for threshold in THRESHOLDS]
    for rule, counted in zip(rules, pool.count(rules, pool.excluded), strict=True):
        stage = count_improvement_set(pool.selected(rule, pool.excluded), pool.judge)
        assert (counted.pairs, counted.clips, counted.judged, counted.right) == (
            stage.pairs, stage.clips, stage.judged, stage.right,
        )  # fmt: skip
        assert counted.similarity_sum == pytest.approx(stage.similarity_sum, rel=1e-9)


def test_a_slow_count_of_pairs_by_hand_agrees(pool: Pool):
    (counted,) = pool.count([SelectionSettings(similarity_threshold=0.61)])
    kept = [row for row in pool.rows if np.float32(row["similarity"]) >= np.float32(0.61)]
    judged = [row for row in kept if row["clip_id"] in pool.of_clip and row["caption_id"] in pool.of_caption]
    right = [
        row for row in judged
        if {label.lower() for label in pool.of_clip[row["clip_id"]]} & set(pool.of_caption[row["caption_id"]])
    ]  # fmt: skip
    assert counted.to_json() == {
        "pairs": len(kept),
        "clips": len({row["clip_id"] for row in kept}),
        "mean_similarity": pytest.approx(np.mean([row["similarity"] for row in kept]), rel=1e-6),
        "precision": len(right) / len(judged),
    }
    assert 0 < len(right) < len(judged) < len(kept) < len(pool.rows)


def test_rules_of_all_kinds_are_counted_at_once_in_the_order_given(pool: Pool):
    rules = [make(threshold) for threshold in THRESHOLDS for make in RULES.values()]
    alone = [pool.count([rule])[0] for rule in rules]
    together = pool.count(rules)
    assert [c.pairs for c in together] == [c.pairs for c in alone]
    assert [c.clips for c in together] == [c.clips for c in alone]


def test_each_shard_is_read_once_however_many_thresholds_there_are(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    before = storage.read_table

    def counting(location: str, *columns: Any) -> pa.Table:
        read.append(location)
        return before(location, *columns)

    judge = pool.judge
    monkeypatch.setattr(storage, "read_table", counting)
    rules = [SelectionSettings(similarity_threshold=t) for t in np.linspace(0.3, 0.9, 20)]
    count_rules(pool.pairs, rules, partial(pool_facts, pool.pairs, kept_captions=None), judge=judge)
    assert sorted(read) == sorted(Ledger(pool.pairs).files())


def test_without_pairs_or_labels_there_is_no_mean_and_no_precision():
    assert CuratedCounts().to_json() == {"pairs": 0, "clips": 0, "mean_similarity": None, "precision": None}
    assert CuratedCounts(pairs=2, clips=1, similarity_sum=1.5).to_json()["mean_similarity"] == 0.75
