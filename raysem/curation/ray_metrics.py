"""What the workers of a cluster count while they work, for Ray's metrics: `ray_raysem_...` in Prometheus.

The numbers say how fast work goes and where it waits. A unit that is done again, after a lost node, counts again, and
a process that ends takes its counts along: the exact counts of a run are in its done-records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import ray
from ray.util import metrics

Step = Literal["decode", "embed", "match"]

UNIT_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Bounds of the histogram's buckets: from a unit of captions to a large shard that is matched."""


@dataclass(frozen=True)
class Declared:
    """A metric: its name, what it counts, and its tags. `buckets` makes it a histogram, else it is a counter."""

    name: str
    description: str
    tags: tuple[str, ...] = ("stage",)
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names in Prometheus: Ray adds a prefix, and a suffix by kind."""
        suffixes = ("_bucket", "_sum", "_count") if self.buckets else ("_total",)
        return tuple(f"ray_{self.name}{suffix}" for suffix in suffixes)


CLIPS_DECODED = Declared("raysem_clips_decoded", "Clips that were decoded and cut for the model.")
CLIPS_REJECTED = Declared("raysem_clips_rejected", "Clips that cannot be used, by outcome.", ("stage", "outcome"))
AUDIO_SECONDS = Declared("raysem_audio_seconds", "Seconds of audio that were decoded.")
CLIPS_EMBEDDED = Declared("raysem_clips_embedded", "Clips that went through the model.")
CAPTIONS_EMBEDDED = Declared("raysem_captions_embedded", "Captions that went through the model.")
PAIRS_SCORED = Declared("raysem_pairs_scored", "Clip-caption pairs that were compared: clips times captions.")
SECONDS_PER_UNIT = Declared(
    "raysem_unit_seconds", "Seconds of work on one unit, or one shard, by step.", ("stage", "step"), UNIT_SECONDS
)
DECLARED = (
    *(CLIPS_DECODED, CLIPS_REJECTED, AUDIO_SECONDS, CLIPS_EMBEDDED, CAPTIONS_EMBEDDED, PAIRS_SCORED),
    SECONDS_PER_UNIT,
)


def count_decoded(stage: str, clips: int, rejects: Mapping[str, int], *, audio_seconds: float, seconds: float) -> None:
    """A unit of clips was decoded.

    Args:
        stage: as in the run's plan, `embed/wild`.
        clips: those that can be used.
        rejects: the others, by outcome (`raysem.tables.REJECT_OUTCOMES`).
        audio_seconds: of audio, in the usable clips.
        seconds: of work.
    """
    _add(CLIPS_DECODED, clips, stage=stage)
    _add(AUDIO_SECONDS, audio_seconds, stage=stage)
    for outcome, count in rejects.items():
        _add(CLIPS_REJECTED, count, stage=stage, outcome=outcome)
    _observe(seconds, stage, "decode")


def count_embedded(stage: str, clips: int, *, seconds: float) -> None:
    """A unit of clips went through the model in `seconds`."""
    _add(CLIPS_EMBEDDED, clips, stage=stage)
    _observe(seconds, stage, "embed")


def count_captions(stage: str, captions: int, *, seconds: float) -> None:
    """A unit of captions went through the model in `seconds`."""
    _add(CAPTIONS_EMBEDDED, captions, stage=stage)
    _observe(seconds, stage, "embed")


def count_scored(stage: str, pairs: int, *, seconds: float) -> None:
    """A shard of clips was compared with the captions, `pairs` cosines in `seconds`."""
    _add(PAIRS_SCORED, pairs, stage=stage)
    _observe(seconds, stage, "match")


def _add(declared: Declared, count: float, **tags: str) -> None:
    if count > 0 and ray.is_initialized():  # Ray refuses to add nothing
        _counter(declared).inc(float(count), tags)


def _observe(seconds: float, stage: str, step: Step) -> None:
    if ray.is_initialized():
        _histogram(SECONDS_PER_UNIT).observe(float(seconds), {"stage": stage, "step": step})


# Once a process: Ray keeps what it registers until the process ends.
@cache
def _counter(declared: Declared) -> metrics.Counter:
    return metrics.Counter(declared.name, declared.description, declared.tags)


@cache
def _histogram(declared: Declared) -> metrics.Histogram:
    return metrics.Histogram(declared.name, declared.description, list(declared.buckets), declared.tags)
