"""The synthetic corpus, the embedded default: sounds by arithmetic, captions by templates, made on the spot.

Licence: none is needed, nothing is copied from a recording. Layout below the output folder:

    teacher/clips, validation/clips   captioned and labelled clips of the downstream domain and of other classes
    wild/clips                        no captions, no labels; four in ten are off-topic, broken or near-duplicates
    test/clips                        clips of the downstream domain with the label of the foreground, no captions
    captions.parquet                  the caption pool: the teacher's captions and others, wider than the domain
    labels.json                       the class lists
    hidden_labels.parquet             what the wild clips really are, for measuring precision; curation must not read it
    hidden_caption_labels.parquet     the classes that each caption names, for the same purpose
    audio/                            the files, in eight formats, seven sample rates, mono and stereo
    corpus.json                       settings and counts; written last, so its presence means that all is there

At an `s3://` output the bytes stand in the tables instead of in files.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.config import digest
from raysem.corpora.broken import BrokenClip, write_broken_clips
from raysem.corpora.built import CAPTIONS_FILE, HIDDEN_CAPTION_LABELS_FILE, HIDDEN_LABELS_FILE
from raysem.corpora.encoding import encode
from raysem.corpora.shards import MANIFEST, write_shards
from raysem.corpora.synthetic_plans import (
    PART_NAMES,
    CaptionPlan,
    ClipPlan,
    SyntheticSettings,
    plan_captions,
    plan_clips,
)
from raysem.corpora.synthetic_signals import Samples, Studio, in_room, with_power
from raysem.corpora.synthetic_sounds import CAPTIONED_SOUNDS, DOMAIN_SOUNDS, SOUNDS
from raysem.corpora.synthetic_surroundings import background, bleeps, hush, noise_alone
from raysem.remote import is_remote
from raysem.tables import CAPTIONS, CLIPS

__all__ = ["PART_NAMES", "SyntheticSettings", "build_synthetic", "plan_clips", "render"]

# Shapes: T samples, C channels.
log = logging.getLogger(__name__)

SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "teacher": ("clips_table", {"part": "teacher"}),
    "held_out": ("clips_table", {"part": "validation"}),
    "wild": ("clips_table", {"part": "wild"}),
    "test": ("clips_table", {"part": "test"}),
    "captions": ("captions_table", {}),
}
"""What a recipe may take of this corpus: the reader of its folder, and its options."""

VERSION = 2
"""Raised when the same settings would give other sounds, so that old folders are built again."""


HIDDEN_LABELS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("kind", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("outcome", pa.string()),  # what a broken or silent clip must be rejected as; null for the rest
        ("duplicate_of", pa.string()),
    ]
)
HIDDEN_CAPTION_LABELS = pa.schema([("caption_id", pa.string()), ("labels", pa.list_(pa.string()))])


def build_synthetic(settings: SyntheticSettings, output_folder: str, *, workers: int = 1) -> dict[str, Any]:
    """Write the corpus and return what `corpus.json` holds: digest, settings, counts by part and kind, class lists.

    A finished folder of the same settings is left as it is; a half-finished one goes on where it stopped; one of other
    settings is replaced.

    Args:
        workers: processes that make sounds; more than one needs a main module that can be imported again (spawn).
    """
    output = storage.absolute(output_folder)
    identity = {"version": VERSION, "settings": json.loads(settings.model_dump_json())}
    record = storage.join(output, "corpus.json")
    if _is_at(record, digest(identity)):
        log.info("%s: the synthetic corpus is there already", output)
        return storage.read_json(record)
    started = storage.join(output, "corpus_started.json")
    if storage.exists(started) and not _is_at(started, digest(identity)):
        log.info("%s: settings have changed, building again", output)
        for name in ("audio", *PART_NAMES):
            storage.delete(storage.join(output, name))
    storage.delete(record)
    storage.write_json(started, {"digest": digest(identity), **identity})

    plans = plan_clips(settings)
    # spawn: the parent may hold the threads of Arrow or torch, which fork would deadlock
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) if workers > 1 else nullcontext() as pool:
        for part in PART_NAMES:
            _write_part(part, plans[part], settings, output, pool)
    captions = plan_captions(plans["teacher"], settings)
    _write_captions(captions, output)
    labels = {
        "test_labels": list(DOMAIN_SOUNDS),
        "captioned_labels": [*DOMAIN_SOUNDS, *CAPTIONED_SOUNDS],
        "all_labels": list(SOUNDS),
    }
    storage.write_json(storage.join(output, "labels.json"), labels)
    content = {
        "digest": digest(identity),
        **identity,
        "clips": {part: len(plans[part]) for part in PART_NAMES},
        "wild_kinds": dict(sorted(Counter(plan.kind for plan in plans["wild"]).items())),
        "captions": len(captions),
        **labels,
    }
    storage.write_json(record, content)
    log.info("%s: synthetic corpus of %s clips", output, content["clips"])
    return content


def render(plan: ClipPlan) -> Samples:
    """The clip's samples (T, C) in -1..1, a pure function of its plan."""
    rng = np.random.default_rng(plan.sound_seed)
    studio = Studio(rng, int(plan.seconds * plan.sample_rate), plan.sample_rate)
    if plan.kind == "silence":
        return np.repeat(hush(studio)[:, None], plan.channels, axis=1)
    samples_TC = _scene(plan, studio)
    if plan.change_seed is not None:
        samples_TC = _changed(samples_TC, plan, np.random.default_rng(plan.change_seed))
    return samples_TC


def _scene(plan: ClipPlan, studio: Studio) -> Samples:
    """Events in a room over a background, at the planned level, on one or two channels."""
    if plan.kind == "noise":
        events = [noise_alone(studio)]
    elif plan.kind == "bleeps":
        events = [bleeps(studio)]
    else:
        events = [SOUNDS[label](studio) for label in plan.labels]
    gains = [0.0, plan.second_level_db]
    mix_TC = np.zeros((studio.num_samples, plan.channels), dtype=np.float32)
    for event_T, gain_db in zip(events, gains, strict=False):
        placed_T = with_power(_in_some_room(studio, event_T), 10 ** (gain_db / 20))
        position = studio.between(0.25, 0.75)
        pan = (1.0,) if plan.channels == 1 else (np.cos(np.pi / 2 * position), np.sin(np.pi / 2 * position))
        mix_TC += placed_T[:, None] * np.asarray(pan, dtype=np.float32)
    for channel in range(plan.channels):
        mix_TC[:, channel] += background(studio) * np.float32(10 ** (-plan.snr_db / 20))
    peak = float(np.abs(mix_TC).max(initial=1e-9))
    return mix_TC * np.float32(10 ** (plan.level_dbfs / 20) / peak)


def _in_some_room(studio: Studio, event_T: Samples) -> Samples:
    reverberation = studio.pitch(0.08, 1.2)
    wet = studio.between(0, 0.8) * float(studio.rng.random() < 0.6)
    return in_room(studio, event_T, reverberation_seconds=reverberation, wet=wet, tilt_db=studio.between(-3, 2.5))


def _changed(samples_TC: Samples, plan: ClipPlan, rng: np.random.Generator) -> Samples:
    begin = int(rng.uniform(0, 0.15) * plan.sample_rate)
    kept_TC = samples_TC[begin:] * np.float32(10 ** (rng.uniform(-8, 0) / 20))
    hiss = rng.standard_normal(kept_TC.shape, dtype=np.float32)
    return np.clip(kept_TC + hiss * np.float32(0.01 * np.sqrt(np.mean(kept_TC**2))), -1, 1)


def _write_part(
    part: str, plans: list[ClipPlan], settings: SyntheticSettings, output: str, pool: ProcessPoolExecutor | None
) -> None:
    folder = storage.join(output, part, "clips")
    finished = storage.exists(storage.join(folder, MANIFEST))
    hidden = storage.join(output, HIDDEN_LABELS_FILE)
    if finished and (part != "wild" or storage.exists(hidden)):
        return
    with tempfile.TemporaryDirectory(prefix="raysem-synthetic-") as scratch:
        remote = is_remote(output)
        audio_folder = Path(scratch if remote else storage.join(output, "audio")) / part
        audio_folder.mkdir(parents=True, exist_ok=True)
        broken = _write_broken(plans, settings, audio_folder)
        if part == "wild":  # before the shards: they are what says that the part is finished
            storage.write_table(hidden, _hidden_table(plans, broken))
        absent = storage.join(output, "audio", part) if remote else None
        tables = _tables(plans, settings, audio_folder, broken, pool, absent_folder=absent)
        write_shards(tables, folder, rows_per_shard=settings.rows_per_shard)


def _write_broken(plans: list[ClipPlan], settings: SyntheticSettings, folder: Path) -> dict[str, BrokenClip]:
    broken_ids = [plan.clip_id for plan in plans if plan.kind == "broken"]
    if not broken_ids:
        return {}
    clips = write_broken_clips(
        str(folder / "broken"), len(broken_ids), settings.seed, longest_seconds=settings.too_long_seconds
    )
    return dict(zip(broken_ids, clips, strict=True))


def _tables(
    plans: list[ClipPlan],
    settings: SyntheticSettings,
    audio_folder: Path,
    broken: dict[str, BrokenClip],
    pool: ProcessPoolExecutor | None,
    *,
    absent_folder: str | None,
) -> Iterator[pa.Table]:
    """One table per shard; with the bytes inside, and a path below `absent_folder` for what is missing, if given."""
    for begin in range(0, len(plans), settings.rows_per_shard):
        some = plans[begin : begin + settings.rows_per_shard]
        sound = [plan for plan in some if plan.kind != "broken"]
        write = partial(_write_clip, folder=str(audio_folder))
        paths: Iterable[str] = map(write, sound) if pool is None else pool.map(write, sound, chunksize=8)
        path_of = {plan.clip_id: path for plan, path in zip(sound, paths, strict=True)}
        path_of |= {plan.clip_id: broken[plan.clip_id].path for plan in some if plan.kind == "broken"}
        yield pa.Table.from_pylist(
            [_row(plan, Path(path_of[plan.clip_id]), absent_folder) for plan in some], schema=CLIPS
        )
        if absent_folder is not None:
            for path in path_of.values():
                Path(path).unlink(missing_ok=True)


def _write_clip(plan: ClipPlan, folder: str) -> str:
    """The clip's file, made unless it is there; whole or not there at all."""
    path = Path(folder) / plan.file_name
    if not path.exists():
        content = encode(render(plan), plan.sample_rate, format=plan.format)
        partial_path = path.with_name(f".{path.name}.partial")
        partial_path.write_bytes(content)  # no fsync as in storage: a lost file would be made again
        partial_path.replace(path)
    return str(path)


def _row(plan: ClipPlan, path: Path, absent_folder: str | None) -> dict[str, Any]:
    audio: dict[str, Any] = {"bytes": None, "path": str(path)}
    if absent_folder is not None:
        there = path.exists()
        audio = {
            "bytes": path.read_bytes() if there else None,
            "path": path.name if there else storage.join(absent_folder, path.name),
        }
    return {
        "clip_id": plan.clip_id,
        "audio": audio,
        "captions": list(plan.captions),
        "labels": _labels(plan),
        "split": plan.part,
        "source": "synthetic",
    }


def _labels(plan: ClipPlan) -> list[str]:
    """All classes of a captioned clip, the one in the foreground of a test clip, none of a wild one."""
    if plan.part == "wild":
        return []
    return list(plan.labels[:1]) if plan.part == "test" else list(plan.labels)


def _hidden_table(plans: list[ClipPlan], broken: dict[str, BrokenClip]) -> pa.Table:
    rows = []
    for plan in plans:
        outcome = broken[plan.clip_id].outcome if plan.kind == "broken" else None
        rows.append(
            {
                "clip_id": plan.clip_id,
                "kind": plan.kind,
                "labels": list(plan.labels),
                "outcome": "silent" if plan.kind == "silence" else outcome,
                "duplicate_of": plan.duplicate_of,
            }
        )
    return pa.Table.from_pylist(rows, schema=HIDDEN_LABELS)


def _write_captions(captions: list[CaptionPlan], output: str) -> None:
    ids = [f"caption_{index:06d}" for index in range(len(captions))]
    texts, sources = [plan.text for plan in captions], [plan.source for plan in captions]
    table = pa.table({"caption_id": ids, "text": texts, "source": sources}, schema=CAPTIONS)
    labels = [list(plan.labels) for plan in captions]
    hidden = pa.table({"caption_id": ids, "labels": labels}, schema=HIDDEN_CAPTION_LABELS)
    storage.write_table(storage.join(output, CAPTIONS_FILE), table)
    storage.write_table(storage.join(output, HIDDEN_CAPTION_LABELS_FILE), hidden)


def _is_at(location: str, wanted: str) -> bool:
    return storage.exists(location) and storage.read_json(location).get("digest") == wanted
