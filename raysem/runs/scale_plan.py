"""What a curation of millions of clips will take: hours, memory, bytes, shards of each stage, and what ends first.

Arithmetic alone: no file is read, no Ray started. Work is counted as the stages do it; a duration needs a rate, and
where none is known the plan says which, and how to get one, instead of a number. Not counted: the teacher's own
training, retries, start-up, checkpoints, and what a slow store adds to each request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raysem.runs.resource_estimate import (
    FLOAT_BYTES,
    ID_BYTES,
    NEIGHBOUR_BYTES,
    SHARD_WORKERS,
    WORKER_BYTES,
    Machine,
    Training,
    Work,
    memory_needs,
)
from raysem.runs.scale_limits import DRIVER_BYTES, SORT_BYTES, SORT_ROW_BYTES, Demand, Limit, driver_bytes, limits_of
from raysem.runs.scale_rates import Device, Rate, find_rate
from raysem.runs.scale_work import PlannedCluster, PlannedWork

MIB = 2**20
UNIT_BLOCKS = 20_000  # into which the pipeline's input is cut at most
BLOCK_BYTES = 128 * MIB  # Ray Data's target for the blocks of a task
CPUS_PER_DECODE_TASK = 0.5
STORE_SHARE = 0.3  # of a node's memory is Ray's object store, unless told otherwise
PAIR_BYTES = 18.5  # of SCORED_PAIRS in Parquet, ten pairs a clip and 100,000 captions; measured
COLLECTOR_REQUESTS = 5  # for a shard: embeddings, rejects and record are written, the first two read for their digest
STORED_TWICE = 2  # a pair: with the clip's rank, then with the caption's too


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage. A number that is None is not known, and a note says what is missing; 0 is none."""

    name: str
    work: float | None
    unit: str
    rate: Rate | None
    cpu_hours: float | None = 0.0
    """Of cores at work."""
    gpu_hours: float | None = 0.0
    hours: float | None = None
    """On this cluster, by itself."""
    cost: float | None = None
    """Of the hours at work; None without prices too."""
    stored_bytes: float | None = 0.0
    node_bytes: float | None = None
    """Memory of one node, at most."""
    store_bytes: float = 0.0
    """Object store in flight, all nodes together."""
    shards: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Decoding and embedding run at once; the slower one makes the other wait. None: a rate is not known."""

    bottleneck: str
    cpus_per_gpu: float | None = None
    """CPU cores that feed one GPU."""
    hours: float | None = None
    idle_gpu_hours: float | None = None
    read_bytes_per_second: float | None = None
    request_seconds: float | None = None
    """The one collector writes and checks all shards, a request after the other: longer ones than this hold it up."""


@dataclass(frozen=True)
class ScalePlan:
    """All stages in order, what they wait for, and the limits, nearest first."""

    stages: tuple[StagePlan, ...]
    pipeline: Pipeline
    limits: tuple[Limit, ...]
    unlimited: tuple[str, ...]
    """What could not be judged, for the want of a number."""

    @property
    def totals(self) -> dict[str, float]:
        """Sums over the stages of what is known: hours of cores and GPUs, cost, bytes."""
        names = ("cpu_hours", "gpu_hours", "cost", "stored_bytes")
        return {name: sum(getattr(stage, name) or 0.0 for stage in self.stages) for name in names}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Stages without hours."""
        return tuple(stage.name for stage in self.stages if stage.hours is None)


def plan(work: PlannedWork, cluster: PlannedCluster, rates: Sequence[Rate]) -> ScalePlan:
    """The plan; `rates` in the order of preference.

    Raises:
        ValueError: a count is below 1.
    """
    if min(work.clips, work.captions, cluster.cpus, cluster.nodes) < 1 or cluster.gpus < 0 or work.clip_seconds <= 0:
        raise ValueError(f"counts are at least 1, got {work} on {cluster}")
    planner = _Planner(work, cluster, rates)
    decode, embed = planner.decode(), planner.embed()
    counted = (
        planner.corpora(), decode, embed, planner.captions(), planner.match(), planner.neighbours(), planner.screen(),
        planner.select(), planner.student(), planner.evaluate(),
    )  # fmt: skip
    stages = tuple(planner.priced(stage) for stage in counted)
    pipeline = _with_storage(_pipeline(work, cluster, decode, embed), work)
    memory = {stage.name: stage.node_bytes for stage in stages if stage.node_bytes is not None}
    memory.pop("corpora")  # of the driver, not of a node
    limits, unlimited = limits_of(
        Demand(
            clips=work.clips,
            shards=work.shards,
            driver_bytes=max(driver_bytes(work.units), stages[0].node_bytes or 0.0),
            shard_pairs=None if work.keep_rate is None else work.keep_rate * work.clips_per_shard * work.captions,
            node_memory=memory,
            store_bytes_per_node=embed.store_bytes / cluster.nodes,
            read_bytes_per_second=pipeline.read_bytes_per_second,
        ),
        node_bytes=cluster.node_bytes,
        head_bytes=cluster.driver_bytes if cluster.driver_bytes is not None else cluster.node_bytes,
        store_bytes=None if cluster.node_bytes is None else STORE_SHARE * cluster.node_bytes,
        storage_bytes_per_second=cluster.storage_bytes_per_second,
    )
    return ScalePlan(stages, pipeline, limits, unlimited)


def _pipeline(work: PlannedWork, cluster: PlannedCluster, decode: StagePlan, embed: StagePlan) -> Pipeline:
    if embed.rate is not None and embed.rate.includes_decode:
        hours = embed.hours
        bottleneck = f"{cluster.cpus} CPU cores, which decode and embed"
        return Pipeline(bottleneck=bottleneck, hours=hours)
    if decode.hours is None or embed.hours is None:
        lacking = " and ".join(stage.name for stage in (decode, embed) if stage.rate is None)
        formula = "CPU cores to feed a GPU = embed rate / decode rate"
        if decode.rate is not None and cluster.gpus:
            rate = decode.rate.for_clips_of(work.clip_seconds)
            rate_each = rate * cluster.cpus / cluster.gpus
            formula += (
                f" = R / {rate:.3g}; the {cluster.cpus} cores decode {rate * cluster.cpus:.4g} clips/s, so decoding "
                f"limits first if a GPU embeds more than {rate_each:.4g} clips/s"
            )
        return Pipeline(bottleneck=f"not known without a rate of {lacking}; {formula}")
    if cluster.gpus:
        hours = max(decode.hours, embed.hours)
        assert decode.cpu_hours is not None
        assert embed.gpu_hours is not None
        needed = decode.cpu_hours / embed.gpu_hours
        short = "decoding: the GPUs wait for CPUs" if decode.hours > embed.hours else "embedding: the GPUs are full"
        return Pipeline(
            bottleneck=short,
            cpus_per_gpu=needed,
            hours=hours,
            idle_gpu_hours=cluster.gpus * hours - embed.gpu_hours,
        )
    hours = decode.hours + embed.hours  # on the same cores
    slower = "decoding" if decode.hours > embed.hours else "embedding"
    return Pipeline(bottleneck=f"{slower}, on the same cores", hours=hours)


def _with_storage(pipeline: Pipeline, work: PlannedWork) -> Pipeline:
    """What a pipeline of these hours asks of the store."""
    if pipeline.hours is None:
        return pipeline
    seconds = 3600 * pipeline.hours
    return replace(
        pipeline,
        read_bytes_per_second=None if work.clip_bytes is None else work.clips * work.clip_bytes / seconds,
        request_seconds=seconds / (COLLECTOR_REQUESTS * work.shards),
    )


class _Planner:
    """The stages of one piece of work on one cluster."""

    def __init__(self, work: PlannedWork, cluster: PlannedCluster, rates: Sequence[Rate]):
        self._work, self._cluster, self._rates = work, cluster, rates
        self._cpus_per_node = max(1, cluster.cpus // cluster.nodes)
        self._workers_per_node = -(-cluster.gpus // cluster.nodes) if cluster.gpus else 1
        self._decoders = max(1, int((cluster.cpus - 0.1) / CPUS_PER_DECODE_TASK))
        self._nothing = Work(
            clips=work.clips, shards=work.shards, rows_per_shard=work.clips_per_shard, captions=work.captions,
            embedding_width=work.teacher.embedding_width, embeddings_left=0, crop_samples=work.teacher.crop_samples,
            num_crops=work.num_crops, clips_per_unit=work.clips_per_unit, activation_bytes=0,
            embedders=self._workers_per_node, decoders=-(-self._decoders // cluster.nodes), matches=False,
            neighbours=0, exact_neighbours=work.captions <= work.exact_neighbours_up_to, screens=False,
        )  # fmt: skip

    def corpora(self) -> StagePlan:
        work = self._work
        stored = None if work.clip_bytes is None else work.clips * work.clip_bytes
        notes = ["one process, the driver's; memory is the driver's, for sorting"]
        if stored is None:
            notes.append("bytes of the audio: not known; give --clip-kib")
        return self._stage(
            "corpora", work.clips, "clips", self._rate("corpora"), workers=1, stored_bytes=stored,
            node_bytes=DRIVER_BYTES + SORT_BYTES + SORT_ROW_BYTES * work.clips, shards=work.shards, notes=notes,
        )  # fmt: skip

    def decode(self) -> StagePlan:
        work, rate = self._work, self._rate("decode", self._work.audio_format)
        embed = self._embed_rate()
        if embed is not None and embed.includes_decode:
            return StagePlan(
                name="decode", work=work.clips, unit="clips", rate=None, hours=0.0, notes=("in the rate of embed",)
            )  # fmt: skip
        speed = rate.for_clips_of(work.clip_seconds) if rate else None
        return self._stage(
            "decode", work.clips, "clips", rate, speed=speed, workers=self._cluster.cpus,
            notes=[f"{self._decoders} tasks at once"],
        )  # fmt: skip

    def embed(self) -> StagePlan:
        work, rate = self._work, self._embed_rate()
        notes = [
            f"{work.units:,} units of {work.clips_per_unit} clips; {work.shards:,} done-records, which the driver "
            "reads about 4 times; a resume also reads what is finished, to check its digests"
        ]
        if rate is not None and rate.includes_decode:
            notes.append("decoding is in its rate")
        elif rate is None and self._cluster.gpus:
            notes.append("GPU-hours = clips / R / 3600; R by benchmarks/embedding.py on such a GPU, or --rate embed=R")
        if not self._cluster.gpus:
            notes.append("on more than one node set cluster.embedding.embed_workers: without GPUs it is one")
        width = FLOAT_BYTES * work.teacher.embedding_width
        tasks_units = -(-work.units // min(work.units, UNIT_BLOCKS))
        in_flight = max(work.unit_bytes, min(tasks_units * work.unit_bytes, BLOCK_BYTES))
        store = min(self._decoders, work.units) * in_flight
        limited = Machine(object_store_bytes=int(store / self._cluster.nodes))
        return self._stage(
            "embed", work.clips, "clips", rate, speed=rate.for_clips_of(work.clip_seconds) if rate else None,
            workers=self._cluster.workers, on_gpu=bool(self._cluster.gpus),
            stored_bytes=work.clips * (width + ID_BYTES),
            node_bytes=self._memory(limited, embeddings_left=work.clips), store_bytes=store, shards=work.shards,
            notes=notes,
        )  # fmt: skip

    def captions(self) -> StagePlan:
        work = self._work
        width = FLOAT_BYTES * work.teacher.embedding_width
        return self._stage(
            "embed captions", work.captions, "captions", self._rate("captions", device=self._cluster.device),
            workers=self._cluster.workers, on_gpu=bool(self._cluster.gpus),
            stored_bytes=work.captions * (width + ID_BYTES), shards=-(-work.captions // 20_000),
        )  # fmt: skip

    def match(self) -> StagePlan:
        work, pairs = self._work, self._work.pairs
        notes = [f"{self._shard_workers} workers, {SHARD_WORKERS} at most, each with all captions"]
        if pairs is None:
            each = STORED_TWICE * PAIR_BYTES
            notes.append(f"bytes = {each:g} x keep-rate x clips x captions: not known; give --keep-rate")
        else:
            passes = 1 + math.ceil(pairs / 1e8)
            notes.append(f"{pairs:,.0f} pairs; one task ranks them, in {passes:,} passes over the table")
        ranking = 0.0 if pairs is None else WORKER_BYTES + 4 * pairs + 20 * min(pairs, 1e8)
        matching = self._memory(self._by_shard, matches=True)
        return self._stage(
            "match", work.clips * work.captions, "pairs compared", self._rate("match"), workers=self._shard_workers,
            stored_bytes=None if pairs is None else STORED_TWICE * PAIR_BYTES * pairs,
            node_bytes=max(matching, ranking), shards=work.shards, notes=notes,
        )  # fmt: skip

    def neighbours(self) -> StagePlan:
        work = self._work
        return self._stage(
            "neighbours", 2 * work.clips * work.captions, "pairs compared", self._rate("neighbours"),
            workers=self._shard_workers,
            stored_bytes=(work.clips + work.captions) * work.neighbours * NEIGHBOUR_BYTES,
            node_bytes=self._memory(self._by_shard, neighbours=work.neighbours), shards=work.shards,
            notes=["each side looks for the other"],
        )  # fmt: skip

    def screen(self) -> StagePlan:
        work = self._work
        if not work.screens:
            return StagePlan(name="screen", work=0, unit="clips", rate=None, hours=0.0, notes=("left out",))
        return self._stage(
            "screen", work.clips, "clips", None, workers=1, node_bytes=self._memory(Machine(), screens=True),
            notes=["one task with the embeddings of all clips", "no benchmark has its rate"],
        )  # fmt: skip

    def select(self) -> StagePlan:
        work = self._work
        stored: float | None = None
        notes = []
        if work.selected_share is None:
            notes.append("clips kept: not known; give --selected-share")
        elif work.clip_bytes is not None:
            stored = work.selected_share * work.clips * work.clip_bytes
            notes.append("with curation.materialize_audio; without it, rows alone")
        return self._stage(
            "select", work.pairs, "scored pairs", self._rate("select"), workers=self._shard_workers,
            stored_bytes=stored, shards=work.shards, notes=notes,
        )  # fmt: skip

    def student(self) -> StagePlan:
        work, cluster = self._work, self._cluster
        clips, rate = work.training_steps * work.batch_size, self._train_rate()
        notes = [f"{work.training_steps:,} steps of {work.batch_size}; cluster.training_workers: {cluster.workers}"]
        if rate is None and cluster.gpus:
            notes.append("GPU-hours = steps x batch / R / 3600; R by benchmarks/training.py, or --rate train=R")
        if not work.teacher.starts_students:
            notes.append("this teacher starts no student: give another teacher.kind, or stop with --until select")
        training = Training(
            name="student", workers=self._workers_per_node, clips=clips, crop_samples=work.teacher.crop_samples,
            cache_bytes=1024 * MIB, table_bytes=512 * MIB, text_cache_bytes=256 * MIB,
        )  # fmt: skip
        return self._stage(
            "student", clips, "clips", rate, workers=cluster.workers, on_gpu=bool(cluster.gpus),
            speed=rate.for_clips_of(work.teacher.crop_samples / work.teacher.sample_rate) if rate else None,
            stored_bytes=None, node_bytes=self._memory(Machine(), trainings=(training,)), notes=notes,
        )  # fmt: skip

    def evaluate(self) -> StagePlan:
        work, rate = self._work, self._embed_rate()
        clips = work.evaluation_clips * work.evaluated_models
        width = FLOAT_BYTES * work.teacher.embedding_width
        return self._stage(
            "evaluate", clips, "clips", rate, workers=self._cluster.workers, on_gpu=bool(self._cluster.gpus),
            speed=rate.for_clips_of(work.clip_seconds) if rate else None, stored_bytes=clips * (width + ID_BYTES),
            shards=work.evaluated_models * -(-work.evaluation_clips // work.rows_per_shard),
            notes=["decoding is in its rate" if rate and rate.includes_decode else "decoding comes on top"],
        )  # fmt: skip

    def priced(self, stage: StagePlan) -> StagePlan:
        """With the cost of its hours at work, where the prices and the hours are known."""
        cost = 0.0
        for hours, price in ((stage.cpu_hours, self._cluster.cpu_price), (stage.gpu_hours, self._cluster.gpu_price)):
            if hours is None or (hours and price is None):
                return stage
            cost += hours * (price or 0.0)
        return replace(stage, cost=cost)

    def _embed_rate(self) -> Rate | None:
        return self._rate("embed", self._work.teacher.encoder, self._cluster.device)

    def _train_rate(self) -> Rate | None:
        return self._rate("train", self._work.teacher.encoder, self._cluster.device)

    def _rate(self, name: str, what: str = "", device: Device = "cpu") -> Rate | None:
        return find_rate(self._rates, name, device=device, what=what)

    @property
    def _shard_workers(self) -> int:
        return min(SHARD_WORKERS, self._work.shards, self._cluster.cpus)

    @property
    def _by_shard(self) -> Machine:
        """A node, as far as `make_shards` fills it."""
        return Machine(cpus=min(self._cpus_per_node, -(-self._shard_workers // self._cluster.nodes)))

    def _memory(self, machine: Machine, **left: object) -> float:
        (need,) = memory_needs(replace(self._nothing, **left), machine)  # type: ignore[arg-type]
        return need.at_most

    def _stage(
        self,
        name: str,
        work: float | None,
        unit: str,
        rate: Rate | None,
        *,
        workers: int,
        speed: float | None = None,
        on_gpu: bool = False,
        stored_bytes: float | None = 0.0,
        node_bytes: float | None = None,
        store_bytes: float = 0.0,
        shards: int = 0,
        notes: Sequence[str] = (),
    ) -> StagePlan:
        """`speed`: the rate for these clips; `workers`: cores or GPUs that share the work."""
        speed = speed if speed is not None else (rate.value if rate else None)
        busy = None if speed is None or work is None else work / speed / 3600
        return StagePlan(
            name=name, work=work, unit=unit, rate=rate, cpu_hours=0.0 if on_gpu else busy,
            gpu_hours=busy if on_gpu else 0.0, hours=None if busy is None else busy / workers,
            stored_bytes=stored_bytes, node_bytes=node_bytes, store_bytes=store_bytes, shards=shards,
            notes=tuple(notes),
        )  # fmt: skip
