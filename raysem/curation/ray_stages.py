"""Curation on a Ray cluster: embed clips and captions, shard by shard, each shard written once with a done-record.

A shard is cut into units of a few clips. A unit is decoded by a task, embedded by an actor as one batch, and gathered
by one collector that writes the shard when its last unit has come. A unit's clips are fixed by the shard, so an
embedding depends neither on the workers nor on where an earlier attempt was killed.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from pydantic import Field, PositiveInt

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import Settings
from raysem.curation.collector import Collector
from raysem.curation.ray_decode import MAX_DECODE_SECONDS, REJECTED, UNIT, decode_unit
from raysem.curation.ray_metrics import count_captions, count_embedded
from raysem.curation.ray_shards import rows_of
from raysem.errors import StageError
from raysem.ledger import Ledger, total
from raysem.logs import Progress
from raysem.models.protocol import AudioTextModel
from raysem.models.scorer import ClipScorer, ScorerSource, load_scorer
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.tables import KEPT

log = logging.getLogger(__name__)

ROUNDS = 3  # a lost collector leaves shards unfinished; they are made again this often
CHECK_FAILURES_FROM_ROWS = 200


class EmbedSettings(Settings):
    """How clips are cut for the teacher, and what share of them may be unusable."""

    clips_per_unit: PositiveInt = 32
    """Clips decoded by one task and embedded as one batch; bounded by the memory of the device."""
    num_crops: PositiveInt = 1
    """Evenly placed crops of a clip longer than one crop; their embeddings are averaged. One crop is the centre."""
    max_failed_share: float = Field(0.5, ge=0, le=1)
    """The job stops when a larger share of the clips than this cannot be used."""


class WorkerSettings(Settings):
    """What the embedding pipeline asks the cluster for."""

    embed_workers: PositiveInt | None = None
    """Actors that hold the model; null: one for each GPU of the cluster, one where there is no GPU."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """GPUs of one actor; null: 1 where the cluster has GPUs, else 0."""
    cpus_per_decode_task: float = Field(0.5, gt=0)
    """CPUs of one decoding task; below 1 two tasks share a core, which keeps a small machine from waiting on itself."""
    max_decode_tasks: PositiveInt | None = None
    """Decoding tasks at once; null: as many as the cluster's CPUs allow."""
    max_decode_seconds: float = Field(MAX_DECODE_SECONDS, gt=0)
    """A clip that twice takes longer to decode is rejected as crashed_decoder; its fetching is not counted."""


@dataclass(frozen=True)
class Workers:
    """`WorkerSettings` with every choice made for one cluster."""

    count: int
    num_gpus: float
    num_cpus: float
    threads: int
    """Of one actor at most; it takes no more than its own machine has."""
    decode_cpus: float
    max_decode_tasks: int | None


def plan_workers(settings: WorkerSettings, resources: Mapping[str, float]) -> Workers:
    """Fit the pipeline to `ray.cluster_resources()`, leaving CPUs for reading and decoding."""
    gpus, cpus = resources.get("GPU", 0.0), max(resources.get("CPU", 1.0), 1.0)
    num_gpus = settings.gpus_per_worker if settings.gpus_per_worker is not None else (1.0 if gpus >= 1 else 0.0)
    count = settings.embed_workers or (max(int(gpus / num_gpus), 1) if num_gpus else 1)
    # Actors on all CPUs would leave none for decoding and wait for ever (ray#44687): together they take 4 in 10, the
    # collector 0.1 of one, and a decoding task must fit beside them.
    num_cpus = 0.0 if num_gpus else min(1.0, 0.4 * cpus / count)
    decode_cpus = min(settings.cpus_per_decode_task, 0.5 * cpus)
    if num_cpus == decode_cpus:
        num_cpus *= 0.9  # of two steps that ask for the same Ray Data makes one, and the actor would decode
    threads = max(int(cpus // 2 // count), 1) if not num_gpus else 2
    return Workers(count, num_gpus, num_cpus, threads, decode_cpus, settings.max_decode_tasks)


def cpus_of_this_node() -> int:
    """CPUs that Ray counts on the machine of this process; without Ray, those that it may use."""
    if ray.is_initialized():
        here = ray.get_runtime_context().get_node_id()
        for node in ray.nodes():
            if node["NodeID"] == here:
                return max(int(node["Resources"].get("CPU", 1)), 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """What `embed_clips` and `embed_captions` need to know.

    What comes of a clip is the model's own: of a `TeacherSource` a unit vector, of a tagger or classifier the
    probabilities of its classes, in the same column `embedding`. `audio.sample_rate` and `crop_samples` are those of
    the model; `metadata` goes into the schema of every file.
    """

    model: TeacherSource | ScorerSource
    output: storage.Location
    workers: WorkerSettings
    audio: AudioSettings
    crop_samples: int
    embed: EmbedSettings
    metadata: Mapping[str, str] = field(default_factory=dict)
    stage: str = "embed"
    """What the metrics call it."""


def embed_clips(shards: Sequence[storage.Location], job: EmbedJob) -> dict[str, Any]:
    """Embed every clip of `shards` (CLIPS tables); returns the counts over all attempts.

    Writes below `job.output`: `shards/` (embeddings), `rejects/` (REJECTS), `done/`.

    Raises:
        StageError: more than `max_failed_share` of the clips cannot be used, or shards stay unfinished.
    """
    decode = partial(
        decode_unit,
        audio=job.audio,
        crop_samples=job.crop_samples,
        num_crops=job.embed.num_crops,
        max_seconds=job.workers.max_decode_seconds,
        stage=job.stage,
    )
    return _embed(shards, job, "clip_id", job.embed.clips_per_unit, decode)


def embed_captions(
    shards: Sequence[storage.Location], job: EmbedJob, *, captions_per_unit: int = 256
) -> dict[str, Any]:
    """Embed every caption of `shards` (CAPTIONS tables); returns the counts over all attempts."""
    return _embed(shards, job, "caption_id", captions_per_unit, None)


def _embed(
    shards: Sequence[storage.Location],
    job: EmbedJob,
    id_name: Literal["clip_id", "caption_id"],
    rows_per_unit: int,
    decode: Callable[[pa.Table], pa.Table] | None,
) -> dict[str, Any]:
    ledger = Ledger(job.output)
    by_name = {storage.name_of(shard): shard for shard in shards}
    if len(by_name) < len(shards):  # outputs are named after shards: of two of one name, one would be lost in silence
        raise ValueError(f"{len(shards)} shards have only {len(by_name)} names; give each folder an output of its own")
    ledger.plan(len(by_name))
    for round_number in range(ROUNDS):
        pending = ledger.pending(by_name, verify=round_number == 0)
        if not pending:
            break
        finished = len(by_name) - len(pending)
        if finished and round_number == 0:
            log.info("%d of %d shards were finished by an earlier attempt", finished, len(by_name))
        if round_number:
            log.warning("%d shards came back unfinished, made again (round %d)", len(pending), round_number + 1)
        units, rows = _units({name: by_name[name] for name in pending}, rows_per_unit)
        counts = _outcomes(ledger, by_name.keys() - set(pending))
        _check_failures(counts, ledger, job.embed.max_failed_share, final=False)
        progress = Progress(
            f"embed {storage.name_of(storage.parent_of(job.output))}", rows, id_name[:-3] + "s", logger=log
        )
        for shard in _run_pipeline(units, job, id_name, decode):
            progress.advance(shard["rows"])
            counts.update(shard["outcomes"])
            _check_failures(counts, ledger, job.embed.max_failed_share, final=False)
    missing = ledger.pending(by_name, verify=False)
    if missing:
        raise StageError(
            f"{job.output}: {len(missing)} shards stay unfinished after {ROUNDS} rounds, {missing[0]} first"
        )
    records = ledger.records()
    summary = total(records[name] for name in by_name)
    _check_failures(Counter(summary["outcomes"]), ledger, job.embed.max_failed_share, final=True)
    return summary


def _outcomes(ledger: Ledger, shards: Set[str]) -> Counter[str]:
    """Those of `shards`; a shard that is made again has a record too, and would count twice."""
    counts = Counter[str]()
    for name, record in ledger.records().items():
        if name in shards:
            counts.update(record.outcomes)
    return counts


def _units(shards: Mapping[str, storage.Location], rows_per_unit: int) -> tuple[list[dict[str, Any]], int]:
    """The work of `shards` as one small dictionary a unit, and the number of rows."""
    units, total_rows = [], 0
    for name, location in shards.items():
        rows = storage.count_rows(location)
        total_rows += rows
        starts = range(0, rows, rows_per_unit)
        for start in starts:
            stop = min(start + rows_per_unit, rows)
            units.append(
                {"shard": name, "location": location, "start": start, "stop": stop, "units": len(starts), "rows": rows}
            )
    return units, total_rows


def _run_pipeline(
    units: list[dict[str, Any]],
    job: EmbedJob,
    id_name: Literal["clip_id", "caption_id"],
    decode: Callable[[pa.Table], pa.Table] | None,
) -> Iterator[dict[str, Any]]:
    """Yield one row for each shard as it is finished."""
    if not units:
        return
    workers = plan_workers(job.workers, ray.cluster_resources())
    # Ray advises to reserve memory for actors of a few hundred MiB; on a laptop that reservation would not fit.
    detectors = ray.data.DataContext.get_current().issue_detectors_config
    detectors.high_memory_detector_config.detection_time_interval_s = -1
    dataset: ray.data.Dataset = ray.data.from_items(units, override_num_blocks=min(len(units), 20_000))
    if decode is not None:
        dataset = dataset.map_batches(
            decode,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=workers.decode_cpus,
            compute=ray.data.TaskPoolStrategy(size=workers.max_decode_tasks) if workers.max_decode_tasks else None,
        )
    dataset = dataset.map_batches(
        _Embedder,
        fn_constructor_kwargs={
            "source": job.model,
            "texts": decode is None,
            "threads": workers.threads,
            "stage": job.stage,
        },
        batch_size=1,
        batch_format="pyarrow",
        num_gpus=workers.num_gpus or None,
        num_cpus=workers.num_cpus,
        compute=ray.data.ActorPoolStrategy(size=min(workers.count, len(units))),
    ).map_batches(
        Collector,
        fn_constructor_kwargs={"output": job.output, "id_name": id_name, "metadata": dict(job.metadata)},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0.1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    for row in rows_of(dataset):
        names, counts = row["outcome_names"], row["outcome_counts"]
        yield {"shard": row["shard"], "rows": row["rows"], "outcomes": dict(zip(names, counts, strict=True))}


_EMBEDDED = pa.schema([*UNIT, ("ids", pa.list_(pa.string())), ("embeddings", pa.large_binary()), *REJECTED])


class _Embedder:
    """Actor with the model on its device: a unit's waveforms, or its texts, become embeddings."""

    def __init__(self, source: TeacherSource | ScorerSource, texts: bool, threads: int, stage: str):
        torch.set_num_threads(min(threads, cpus_of_this_node()))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._teacher = load_teacher(source, device, with_text=texts) if isinstance(source, TeacherSource) else None
        self._scorer = load_scorer(source, device) if not isinstance(source, TeacherSource) else None
        self._texts, self._stage = texts, stage

    def __call__(self, unit: pa.Table) -> pa.Table:
        began = time.monotonic()
        row = unit.to_pylist()[0]
        if self._texts:
            captions = storage.read_rows(row["location"], row["start"], row["stop"], ["caption_id", "text"])
            row |= {"ids": captions["caption_id"].to_pylist(), "audio_seconds": 0.0, "seconds": 0.0}
            row |= {"reject_ids": [], "reject_outcomes": [], "reject_reasons": []}
            assert self._teacher is not None  # a tagger reads no captions
            embedding_BD = self._teacher.embed_texts(captions["text"].to_pylist())
        else:
            embedding_BD = self._embed_waveforms(row)
        row["embeddings"] = np.ascontiguousarray(embedding_BD, np.float32).tobytes()
        spent = time.monotonic() - began
        row["seconds"] += spent
        (count_captions if self._texts else count_embedded)(self._stage, len(row["ids"]), seconds=spent)
        return pa.Table.from_pylist([{name: row.get(name) for name in _EMBEDDED.names}], schema=_EMBEDDED)

    @property
    def _model(self) -> AudioTextModel | ClipScorer:
        model = self._teacher if self._teacher is not None else self._scorer
        assert model is not None
        return model

    def _embed_waveforms(self, row: dict[str, Any]) -> np.ndarray:
        """The mean over a clip's crops: of unit embeddings, made a unit vector again, or of probabilities."""
        if not row["ids"]:
            return np.zeros((0, self._model.embedding_width), np.float32)
        waveforms_NT = np.frombuffer(row["waveforms"], np.float32).reshape(sum(row["crops_per_clip"]), -1)
        crop_ND = self._model.embed_waveforms(waveforms_NT)
        starts = np.concatenate([[0], np.cumsum(row["crops_per_clip"])[:-1]])
        mean_BD = np.add.reduceat(crop_ND, starts, axis=0) / np.asarray(row["crops_per_clip"], np.float32)[:, None]
        if self._teacher is None:
            return mean_BD
        return mean_BD / np.linalg.norm(mean_BD, axis=1, keepdims=True)


def _check_failures(outcomes: Counter[str], ledger: Ledger, max_failed_share: float, *, final: bool) -> None:
    rows = sum(outcomes.values())
    failed = rows - outcomes[KEPT]
    if not failed or failed <= max_failed_share * rows or (rows < CHECK_FAILURES_FROM_ROWS and not final):
        return
    reasons = ", ".join(f"{count} {name}" for name, count in outcomes.most_common() if name != KEPT)
    examples = []
    for location in ledger.files("rejects")[:4]:
        examples += storage.read_table(location).slice(0, 2).to_pylist()
    shown = "; ".join(f"{example['clip_id']}: {example['reason']}" for example in examples[:5])
    raise StageError(
        f"{failed} of {rows} clips cannot be used ({reasons}), more than max_failed_share {max_failed_share:g}: {shown}"
    )
