"""The stages that match and select, on a small pool; one shard waits, so that a test can take its machine away."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.corpora.rows import caption_id
from raysem.corpora.shards import write_shards
from raysem.curation.match_shards import MatchShards
from raysem.curation.pair_shards import SelectShards, pool_facts, rank_pairs
from raysem.curation.ray_shards import ShardWork, make_shards, run_as_task
from raysem.curation.selection import SelectionSettings
from raysem.ledger import DoneRecord, Ledger
from raysem.tables import CAPTIONS, CLIPS, KEPT, embeddings_schema

NUM_SHARDS, CLIPS_PER_SHARD, NUM_CAPTIONS, WIDTH = 6, 10, 20, 8
HELD_SHARD = "shard_00002"
HELD_SECONDS = 300
RULE = SelectionSettings(similarity_threshold=0.2, cap_per_caption=20)
WORK = {"match": MatchShards, "select": SelectShards}


@dataclass(frozen=True)
class Pool:
    """Embedded clips and captions below a folder, their directions drawn."""

    folder: str

    @classmethod
    def write(cls, folder: Path) -> Pool:
        texts = [f"caption {index}" for index in range(NUM_CAPTIONS)]
        captions = [{"caption_id": caption_id(text), "text": text, "source": "test"} for text in texts]
        storage.write_table(f"{folder}/captions.parquet", pa.Table.from_pylist(captions, schema=CAPTIONS))
        rows = [
            {"clip_id": f"clip_{index:03d}", "audio": {"bytes": None, "path": f"{index}.wav"}}
            for index in range(NUM_SHARDS * CLIPS_PER_SHARD)
        ]
        clips = [pa.Table.from_pylist(rows, schema=CLIPS)]
        write_shards(clips, f"{folder}/clips", rows_per_shard=CLIPS_PER_SHARD)
        pool = cls(str(folder))
        ids = [row["caption_id"] for row in captions]
        _write_embeddings(f"{folder}/embed/captions", "caption_id", {"shard_00000": ids})
        by_shard = {
            name: storage.read_table(file).column("clip_id").to_pylist() for name, file in pool.clip_shards.items()
        }
        _write_embeddings(f"{folder}/embed/clips", "clip_id", by_shard)
        return pool

    @property
    def clip_shards(self) -> dict[str, storage.Location]:
        return {storage.name_of(file): file for file in storage.list_files(f"{self.folder}/clips", ".parquet")}

    def arguments(self, stage: str, pairs: str) -> dict[str, Any]:
        """Of the stage's work; `pairs` is what `select` reads."""
        if stage == "match":
            return {"clips": f"{self.folder}/embed/clips", "captions": f"{self.folder}/embed/captions", "floor": -1.0}
        return {
            "pairs": pairs,
            "clips": self.clip_shards,
            "captions": [f"{self.folder}/captions.parquet"],
            "settings": RULE,
            "facts": pool_facts(pairs, RULE, None),
            "teacher": "fingerprint",
        }

    def make_plainly(self, output: Path) -> None:
        """Both stages without Ray, one shard after the other."""
        for stage, made in (("match", "scored"), ("select", "select")):
            work = WORK[stage](**self.arguments(stage, f"{output}/match"))
            for shard in self.clip_shards:
                Ledger(f"{output}/{made}").finish(*work(shard))
            if stage == "match":
                rank_pairs(f"{output}/scored", f"{output}/match", NUM_CAPTIONS)


def _write_embeddings(folder: str, id_name: Any, shards: Mapping[str, list[str]]) -> None:
    rng = np.random.default_rng(len(shards))
    for shard, ids in shards.items():
        matrix = rng.normal(size=(len(ids), WIDTH))
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1).astype(np.float32)), WIDTH)
        table = pa.table([pa.array(ids, pa.string()), vectors], schema=embeddings_schema(id_name, WIDTH, {}))
        Ledger(folder).finish(DoneRecord(shard, len(ids), {KEPT: len(ids)}), {"shards": table})


class HeldShards:
    """Work on shards that stays for ever with one of them in hand, the first time; it notes on which node."""

    def __init__(self, stage: str, arguments: Mapping[str, Any], note: str):
        self._work: ShardWork = WORK[stage](**arguments)
        self._note = Path(note)

    def __call__(self, shard: str) -> tuple[DoneRecord, Mapping[str, pa.Table]]:
        made = self._work(shard)
        if shard == HELD_SHARD and not self._note.exists():
            import ray

            writing = self._note.with_suffix(".part")
            writing.write_text(ray.get_runtime_context().get_node_id())
            writing.rename(self._note)
            time.sleep(HELD_SECONDS)
            raise TimeoutError(f"nobody took the machine away in {HELD_SECONDS} s")
        return made


def tables_of(folder: Path) -> Iterator[tuple[str, pa.Table]]:
    """The shards of a stage, with its place in the folder."""
    for file in sorted(folder.rglob("shard_*.parquet")):
        yield str(file.relative_to(folder)), storage.read_table(str(file))


def main() -> None:
    """Run a stage on the cluster that the environment names: pool, output, stage, pairs to select from, note."""
    import ray

    from raysem.logs import set_up

    set_up()
    ray.init(log_to_driver=True)
    folder, output, stage, pairs, note = sys.argv[1:]
    pool, made = Pool(folder), {"match": "scored", "select": "select"}[stage]
    arguments = {"stage": stage, "arguments": pool.arguments(stage, pairs), "note": note}
    counts = make_shards(list(pool.clip_shards), f"{output}/{made}", HeldShards, arguments, what=stage, workers=2)
    if stage == "match":
        run_as_task(rank_pairs, f"{output}/scored", f"{output}/match", NUM_CAPTIONS)
    storage.write_json(f"{output}/counts.json", counts)
