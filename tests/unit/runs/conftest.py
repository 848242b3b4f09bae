"""Tables of a few rows as the stages of a run leave them, and a tiny model to read and score them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from raysem import storage
from raysem.audio.logmel import LogMelSettings
from raysem.corpora.rows import caption_id
from raysem.corpora.shards import write_shards
from raysem.ledger import DoneRecord, Ledger
from raysem.models.checkpoint import save_model
from raysem.models.clap import ClapSettings
from raysem.models.start import build_clap
from raysem.tables import CAPTIONS, CLIPS, REJECTS, conform, embeddings_schema
from raysem.text.encoder import TextEncoderSettings

Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(scope="session")
def tiny_clap_settings(bert_folder: Path) -> ClapSettings:
    return ClapSettings(
        audio_encoder="cnn14_tiny",
        audio_channels=(4, 4, 4, 8, 8, 16),
        log_mel=LogMelSettings(sample_rate=8000, window_samples=256, hop_samples=100, num_mels=32, max_hz=3900),
        crop_seconds=1.0,
        text=TextEncoderSettings(name=str(bert_folder), max_tokens=30),
        embedding_width=16,
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_clap_settings: ClapSettings, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tiny_clap"))
    save_model(folder, build_clap(tiny_clap_settings, seed=0), {})
    return folder


@pytest.fixture
def write_embeddings() -> Callable[..., str]:
    """Writes shards of (ids, matrix) as an embedding stage does."""

    def write(
        folder: Path | str,
        shards: Mapping[str, tuple[Sequence[str], Any]],
        id_name: Literal["clip_id", "caption_id"] = "clip_id",
    ) -> str:
        ledger = Ledger(str(folder))
        for shard, (ids, rows) in shards.items():
            matrix = np.asarray(rows, np.float32)
            width = matrix.shape[1] if len(ids) else 1
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), width)
            table = pa.table([pa.array(list(ids), pa.string()), vectors], schema=embeddings_schema(id_name, width, {}))
            rejects = REJECTS.empty_table()
            ledger.finish(DoneRecord(shard, len(ids), {"kept": len(ids)}), {"shards": table, "rejects": rejects})
        return str(folder)

    return write


@pytest.fixture
def write_part() -> Callable[..., str]:
    """Writes clips and captions as `roles.build_part` does."""

    def write(
        folder: Path | str,
        clips: Rows = (),
        captions: Mapping[str, Sequence[str]] | None = None,
        hidden: Mapping[str, Sequence[str]] | None = None,
        rows_per_shard: int = 2,
    ) -> str:
        root = str(folder)
        filled = [{"audio": {"bytes": None, "path": "/nowhere.wav"}, **row} for row in clips]
        table = conform(pa.Table.from_pylist(filled), CLIPS, "test") if filled else CLIPS.empty_table()
        write_shards([table], storage.join(root, "clips"), rows_per_shard=rows_per_shard)
        known = sorted((caption_id(text), text, list(labels)) for text, labels in (captions or {}).items())
        texts = [{"caption_id": key, "text": text, "source": "test"} for key, text, _ in known]
        location = storage.join(root, "captions", "shard_00000.parquet")
        storage.write_table(location, pa.Table.from_pylist(texts, schema=CAPTIONS))
        for name, rows in (
            ("caption", [(key, labels) for key, _, labels in known]),
            ("clip", sorted((hidden or {}).items())),
        ):
            schema = pa.schema([(f"{name}_id", pa.string()), ("labels", pa.list_(pa.string()))])
            listed = [{f"{name}_id": key, "labels": list(labels)} for key, labels in rows]
            storage.write_table(
                storage.join(root, f"{name}_labels.parquet"), pa.Table.from_pylist(listed, schema=schema)
            )
        storage.write_table(storage.join(root, "rejects.parquet"), REJECTS.empty_table())
        return root

    return write
