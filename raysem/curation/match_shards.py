"""Scored pairs of one shard of clips with all captions, by any process of a cluster. No Ray here."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import torch

from raysem import storage
from raysem.curation.embeddings import embedding_matrix, read_embeddings
from raysem.curation.matching import PreparedCaptions, match_above
from raysem.curation.ranking import rank_within
from raysem.ledger import DoneRecord, Ledger
from raysem.tables import KEPT

BELOW_FLOOR = "below_threshold"


class MatchShards:
    """All pairs of one shard of clips with a cosine of at least `floor`, ranked for each clip."""

    def __init__(self, clips: storage.Location, captions: storage.Location, floor: float, threads: int = 1):
        torch.set_num_threads(threads)
        self._clips, self._floor = Ledger(clips), floor
        self._caption_ids, text_CD = read_embeddings(captions)
        self.num_captions = len(self._caption_ids)
        self._text = PreparedCaptions(text_CD)

    def __call__(self, shard: str) -> tuple[DoneRecord, dict[str, pa.Table]]:
        table = storage.read_table(self._clips.file_of(shard))
        audio_AD = embedding_matrix(table)
        clip, caption, similarity = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        if len(table):
            found = match_above(audio_AD, self._text, self._floor)
            clip, caption, similarity = (np.asarray(column) for column in found)
        pairs = pa.table(
            {
                "clip_id": table.column("clip_id").take(clip),
                "caption_id": self._caption_ids.take(caption),
                "similarity": pa.array(np.asarray(similarity, np.float32)),
                "rank_for_clip": pa.array(rank_within(clip, similarity)),
                "caption_index": pa.array(caption, pa.int32()),
            }
        )
        matched = len(np.unique(clip))
        outcomes = Counter({KEPT: matched, BELOW_FLOOR: len(table) - matched})
        return DoneRecord(shard, len(table), +outcomes), {"shards": pairs}
