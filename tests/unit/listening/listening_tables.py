"""A clips table of tones and two models' predictions about it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from raysem import storage
from raysem.tables import CLIPS

CLASSES = ["Dog", "Rain", "Siren, loud", '<b>Bell</b> & "co" </script>', "Cat", "Wind"]
TAGS = pa.list_(pa.struct([("name", pa.string()), ("score", pa.float32())]))


def tone(hz: float, seconds: float = 0.3) -> bytes:
    buffer = io.BytesIO()
    samples_T = 0.5 * np.sin(2 * np.pi * hz * np.arange(int(16_000 * seconds)) / 16_000)
    soundfile.write(buffer, samples_T, 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_scores(location: Path, clip_ids: Sequence[str], seed: int) -> str:
    """Predictions as a matrix of scores, in another order of clips for each seed."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(clip_ids))
    scores = generator.random((len(clip_ids), len(CLASSES)), dtype=np.float32)
    columns = {
        "clip_id": pa.array([clip_ids[at] for at in order]),
        "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), len(CLASSES)),
    }
    table = pa.table(columns).replace_schema_metadata({"classes": json.dumps(CLASSES)})
    storage.write_table(str(location), table, row_group_rows=5)
    return str(location)


def write_tags(location: Path, tags: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Predictions as lists of named tags."""
    rows = [[{"name": name, "score": score} for name, score in of_clip] for of_clip in tags.values()]
    table = pa.table({"clip_id": pa.array(list(tags)), "tags": pa.array(rows, TAGS)})
    storage.write_table(str(location), table)
    return str(location)


@dataclass(frozen=True)
class Inputs:
    """Locations, and the ids of all clips."""

    folder: Path
    clip_ids: list[str]
    clips: str
    first: str
    second: str


def write_inputs(folder: Path) -> Inputs:
    """24 tones in two files, and the scores of two models."""
    clip_ids = [f"corpus/siren-{number:02d}" for number in range(24)]
    audio = [{"bytes": tone(200 + 20 * number), "path": None} for number in range(24)]
    table = pa.Table.from_pylist(
        [{"clip_id": clip_id, "audio": one} for clip_id, one in zip(clip_ids, audio, strict=True)], schema=CLIPS
    )
    storage.write_table(str(folder / "clips" / "a.parquet"), table.slice(0, 10), row_group_rows=4)
    storage.write_table(str(folder / "clips" / "b.parquet"), table.slice(10), row_group_rows=4)
    first = write_scores(folder / "plain_model.parquet", clip_ids, seed=1)
    second = write_scores(folder / "aligned_model.parquet", clip_ids, seed=2)
    return Inputs(folder, clip_ids, str(folder / "clips"), first, second)
