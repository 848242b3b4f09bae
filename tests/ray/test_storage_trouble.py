"""A store that fails stops an embedding run with one line of its own; it is no reject of any clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raysem.corpora.shards import write_shards
from raysem.curation.ray_stages import embed_clips
from raysem.errors import StorageError
from raysem.ledger import Ledger
from raysem.runs.launch import own_error
from raysem.tables import CLIPS

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(600)]


def test_an_embedding_run_stops_with_the_line_of_the_store(pool: Any, tmp_path: Path):
    audio = {"bytes": None, "path": "nosuchscheme://bucket/a.wav"}
    table = pa.Table.from_pylist([{"clip_id": "a", "audio": audio}], schema=CLIPS)
    shards = write_shards([table], str(tmp_path / "clips"), rows_per_shard=4)
    with pytest.raises(Exception, match="nosuchscheme") as caught:
        embed_clips(shards.files, pool.job(tmp_path / "out", max_failed_share=1.0))
    found = own_error(caught.value)
    assert type(found) is StorageError
    assert str(found).startswith("nosuchscheme://bucket/a.wav: no filesystem for this scheme")
    ledger = Ledger(str(tmp_path / "out"))
    assert (ledger.records(), ledger.files("rejects")) == ({}, [])
