"""Decoding in tasks of Ray: a clip that ends its process costs a task one attempt, and then itself alone."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from raysem import storage
from raysem.audio.crops import even_crops
from raysem.audio.decode_time import ends_after
from raysem.audio.guarded_decode import GuardedDecoder
from raysem.audio.load import AudioSettings, load_clip
from raysem.curation.ray_metrics import count_decoded
from raysem.errors import ClipError

log = logging.getLogger(__name__)

# Shapes: T samples.

MAX_DECODE_SECONDS = 600.0

UNIT = [
    ("shard", pa.string()),
    ("location", pa.string()),
    ("start", pa.int64()),
    ("stop", pa.int64()),
    ("units", pa.int64()),
    ("rows", pa.int64()),
]
REJECTED = [
    ("reject_ids", pa.list_(pa.string())),
    ("reject_outcomes", pa.list_(pa.string())),
    ("reject_reasons", pa.list_(pa.string())),
    ("audio_seconds", pa.float64()),
    ("seconds", pa.float64()),
]
DECODED = pa.schema(
    [
        *UNIT,
        ("ids", pa.list_(pa.string())),
        ("crops_per_clip", pa.list_(pa.int32())),
        ("waveforms", pa.large_binary()),
        *REJECTED,
    ]
)


def decode_unit(
    unit: pa.Table,
    *,
    audio: AudioSettings,
    crop_samples: int,
    num_crops: int,
    max_seconds: float = MAX_DECODE_SECONDS,
    stage: str = "embed",
) -> pa.Table:
    """One row a unit in, one row out: the usable clips' crops as one block of float32, the others with a reason.

    A clip that crashes its decoder takes this process with it, and one that takes longer than `max_seconds` does too:
    Ray then tries the unit again, for ever. The next attempt decodes in a process beside this one, to the same
    samples, and rejects a clip that crashes that too as crashed_decoder.
    """
    torch.set_num_threads(1)  # resampling: one decoding task is one thread
    about = unit.to_pylist()[0]
    began = time.monotonic()
    columns = ["clip_id", "audio", "start_seconds", "duration_seconds"]
    rows = storage.read_rows(about["location"], about["start"], about["stop"], columns)
    kept: list[str] = []
    crops: list[np.ndarray] = []
    rejects: list[tuple[str, str, str]] = []
    seconds = 0.0
    with clip_loader(audio, max_seconds) as load:
        for row in rows.to_pylist():
            source = row["audio"] or {}
            try:
                samples_T = load(
                    source.get("bytes"),
                    source.get("path"),
                    start_seconds=row["start_seconds"],
                    duration_seconds=row["duration_seconds"],
                )
            except ClipError as error:
                rejects.append((row["clip_id"], error.outcome, error.reason))
                continue
            seconds += len(samples_T) / audio.sample_rate
            kept.append(row["clip_id"])
            crops.append(even_crops(samples_T, crop_samples, num_crops))
    waveforms = (
        np.concatenate(crops).astype(np.float32, copy=False) if crops else np.zeros((0, crop_samples), np.float32)
    )
    out = {
        **about,
        "ids": kept,
        "crops_per_clip": [len(crop) for crop in crops],
        "waveforms": waveforms.tobytes(),
        "reject_ids": [reject[0] for reject in rejects],
        "reject_outcomes": [reject[1] for reject in rejects],
        "reject_reasons": [reject[2] for reject in rejects],
        "audio_seconds": seconds,
        "seconds": time.monotonic() - began,
    }
    outcomes = Counter(reject[1] for reject in rejects)
    count_decoded(stage, len(kept), outcomes, audio_seconds=seconds, seconds=time.monotonic() - began)
    return pa.Table.from_pylist([out], schema=DECODED)


@contextmanager
def clip_loader(audio: AudioSettings, max_seconds: float = MAX_DECODE_SECONDS) -> Iterator[Callable[..., np.ndarray]]:
    """`load_clip` with these settings in a task of Ray, guarded where an earlier attempt at it lost its process."""
    if _is_retry():
        log.warning("an earlier attempt at this task lost its process; its clips are decoded in a process of their own")
        with GuardedDecoder(audio, max_seconds=max_seconds) as decoder:
            yield decoder.load_clip
        return

    with ends_after(max_seconds) as begin_clip:

        def load(
            audio_bytes: bytes | None, path: str | None, *, start_seconds: float | None, duration_seconds: float | None
        ) -> np.ndarray:
            begin_clip()
            return load_clip(
                audio_bytes, path, start_seconds=start_seconds, duration_seconds=duration_seconds, settings=audio
            )

        yield load


def _is_retry() -> bool:
    """Whether an earlier attempt at this task of Ray lost its process, or what it made."""
    # No public call of Ray 2.60 says it. It is so for tasks, not for those of an actor: decoding stays out of actors.
    worker: Any = ray._private.worker.global_worker
    return ray.is_initialized() and worker.core_worker.get_current_task_attempt_number() > 0
