"""What a run will need of disk and memory, from numbers known before Ray starts, against what a machine has.

Each need is a range: `at_least` is allocated whatever happens, `at_most` with every worker at its peak. What cannot fit
is refused, what may not fit is a warning. Left out, because they are not known yet: the scored pairs and what is
selected of them, audio copied by `materialize_audio`, and the weights, gradients and checkpoints of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

FLOAT_BYTES = 4
WORKER_BYTES = 600 * 2**20  # a Ray worker that has imported torch and pyarrow, measured
MATRIX_PEAK = 2.5  # of a matrix of embeddings read from shards, against its size: tables, copy, sketches; measured
DECODE_COPIES, EMBED_COPIES = 4, 2  # of a unit's waveforms in the task that makes them and in the actor; measured
LONG_CLIP_CROPS = 4  # a clip in a training cache is taken to be one to four crops long
COMPRESSED = 0.9  # of float32 embeddings in Parquet
ID_BYTES = 40
NEIGHBOUR_BYTES = 24  # a neighbour in its table: identifier and cosine
SHARD_WORKERS = 64  # of `make_shards`, at most
SEARCH_CHUNK_ROWS = 65_536
PAIRS_WORTH_WORKERS = 10**9  # below, matching takes seconds whoever idles
TIGHT = 0.8


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run: what each of its workers may keep in memory."""

    name: str
    """The recipe's key above its `training`."""
    workers: int
    clips: int
    """Distinct clips that it reads, as far as that is known."""
    crop_samples: int
    cache_bytes: int
    table_bytes: int
    text_cache_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run still has to do. Every count is of what is left; 0 where nothing is."""

    clips: int
    """Of the pool, in `shards` of at most `rows_per_shard`."""
    shards: int
    rows_per_shard: int
    captions: int
    embedding_width: int
    embeddings_left: int
    """Rows still to be embedded: captions, clips of the pool, evaluation clips for each model."""
    crop_samples: int
    num_crops: int
    clips_per_unit: int
    activation_bytes: int
    """Largest layer of the audio encoder for one crop, on a CPU; 0 on a GPU."""
    embedders: int
    decoders: int
    matches: bool
    neighbours: int
    """k of the neighbour tables that are left to make, else 0."""
    exact_neighbours: bool
    screens: bool
    trainings: tuple[Training, ...] = ()

    @classmethod
    def of_trainings(cls, trainings: Iterable[Training]) -> Work:
        """Training alone."""
        return cls(
            clips=0, shards=0, rows_per_shard=1, captions=0, embedding_width=0, embeddings_left=0, crop_samples=0,
            num_crops=0, clips_per_unit=1, activation_bytes=0, embedders=0, decoders=0, matches=False, neighbours=0,
            exact_neighbours=False, screens=False, trainings=tuple(trainings),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is. None: not known, as with an object store, or a cluster elsewhere."""

    free_disk_bytes: int | None = None
    memory_bytes: int | None = None
    available_bytes: int | None = None
    cpus: int | None = None
    object_store_bytes: int | None = None


@dataclass(frozen=True)
class Need:
    """Bytes for one thing, and how a recipe asks for less of it."""

    what: str
    at_least: float
    at_most: float
    remedy: str


@dataclass
class Findings:
    """What was found: `lines` for the log, `warnings`, and `refusals` of what cannot work, each with its key."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def estimate(work: Work, machine: Machine) -> Findings:
    """The needs of `work` against `machine`."""
    found = Findings()
    disk = disk_need(work)
    if disk.at_most:
        free = f", free {size(machine.free_disk_bytes)}" if machine.free_disk_bytes is not None else ""
        found.lines.append(f"disk: {disk.what} {size(disk.at_most)}{free}; scored pairs come on top")
        _judge(disk, machine.free_disk_bytes, machine.free_disk_bytes, "are free", found)
    there = ""
    if machine.memory_bytes is not None and machine.available_bytes is not None:
        there = f"; this machine has {size(machine.memory_bytes)}, {size(machine.available_bytes)} of it free"
    for need in memory_needs(work, machine):
        found.lines.append(f"memory: {need.what} at most {size(need.at_most)}{there}")
        _judge(need, machine.memory_bytes, machine.available_bytes, "are there", found)
        there = ""
    _idle_workers(work, machine, found)
    if machine.object_store_bytes and work.embeddings_left and 2 * _unit_bytes(work) > machine.object_store_bytes:
        found.warnings.append(
            f"cluster.object_store_mib: two units of {work.clips_per_unit} clips are "
            f"{size(2 * _unit_bytes(work))}, the object store has {size(machine.object_store_bytes)}; raise it, or "
            "lower curation.embed.clips_per_unit"
        )
    return found


def disk_need(work: Work) -> Need:
    """Embeddings and tables of neighbours."""
    row = FLOAT_BYTES * work.embedding_width
    embeddings = work.embeddings_left * row
    lists = (work.clips + work.captions) * work.neighbours * NEIGHBOUR_BYTES
    return Need(
        f"{work.embeddings_left:,} embeddings of {row:,} bytes, neighbours",
        COMPRESSED * embeddings,
        embeddings + work.embeddings_left * ID_BYTES + lists,
        "--output: take a larger disk, or less of corpora.wild (share)",
    )


def memory_needs(work: Work, machine: Machine) -> Iterator[Need]:
    """One need for each kind of stage that is left, on one machine; stages follow one another."""
    width = FLOAT_BYTES * work.embedding_width
    captions = work.captions * width
    workers = _shard_workers(work, machine)
    if work.embeddings_left:
        yield _embedding_need(work, machine)
    if work.matches:
        yield Need(
            f"matching, {work.captions:,} captions in each of {workers} workers,",
            workers * captions,
            workers * (MATRIX_PEAK * captions + WORKER_BYTES),
            "cluster.local_cpus: lower it for fewer workers, or take fewer captions (corpora.captions)",
        )
    if work.neighbours:
        held = captions if work.exact_neighbours else captions / 2  # else an index of float16
        peak = MATRIX_PEAK * held + (min(work.captions, SEARCH_CHUNK_ROWS) * width if work.exact_neighbours else 0)
        yield Need(
            f"neighbours, {workers} workers,",
            workers * held,
            workers * (peak + WORKER_BYTES),
            "cluster.local_cpus: lower it for fewer workers, or lower curation.neighbour_index.exact_up_to",
        )
    if work.screens:
        pool = work.clips * width
        yield Need(
            f"screening, all {work.clips:,} clips at once,",
            pool,
            MATRIX_PEAK * pool + WORKER_BYTES,
            "curation.duplicate_similarity, curation.exclude_overlap_similarity: null leaves it out",
        )
    for training in work.trainings:
        yield _training_need(training)


def size(num_bytes: float) -> str:
    """`3.2 GiB`, `120 MiB`."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def _embedding_need(work: Work, machine: Machine) -> Need:
    unit, store = _unit_bytes(work), machine.object_store_bytes or 0
    embedders, decoders = min(work.embedders, _units(work)), min(work.decoders, _units(work))
    layers = 3 * work.activation_bytes * min(work.clips_per_unit, work.rows_per_shard) * work.num_crops
    return Need(
        f"embedding, {decoders} decoding tasks and {embedders} workers with the model,",
        DECODE_COPIES * unit / work.num_crops,  # a clip no longer than a crop has one
        decoders * (DECODE_COPIES * unit + WORKER_BYTES)
        + embedders * (EMBED_COPIES * unit + layers + WORKER_BYTES)
        + store,
        "curation.embed.clips_per_unit: lower it, or cluster.embedding.max_decode_tasks",
    )


def _training_need(training: Training) -> Need:
    clips = training.clips * training.crop_samples * FLOAT_BYTES
    kept = training.table_bytes + training.text_cache_bytes
    return Need(
        f"training {training.name}, caches of {training.workers} workers,",
        training.workers * min(training.cache_bytes, clips),
        training.workers * (min(training.cache_bytes, LONG_CLIP_CROPS * clips) + kept + WORKER_BYTES),
        f"{training.name}.training.cache_mib: lower it, or table_memory_mib, or cluster.training_workers",
    )


def _unit_bytes(work: Work) -> int:
    """The waveforms of the largest unit."""
    return min(work.clips_per_unit, work.rows_per_shard) * work.num_crops * work.crop_samples * FLOAT_BYTES


def _units(work: Work) -> int:
    """Of the pool: what decoding tasks and embedders share among them."""
    return max(work.shards * -(-min(work.rows_per_shard, work.clips) // work.clips_per_unit), 1)


def _shard_workers(work: Work, machine: Machine) -> int:
    """As `make_shards` counts them; one where the CPUs are not known."""
    return max(min(SHARD_WORKERS, work.shards, machine.cpus or 1), 1)


def _judge(need: Need, total: int | None, free: int | None, there: str, found: Findings) -> None:
    if total is not None and need.at_least > total:
        found.refusals.append(f"{need.remedy}: {need.what} {size(need.at_least)} at least, {size(total)} {there}")
    elif free is not None and need.at_most > TIGHT * free:
        found.warnings.append(f"{need.remedy}: {need.what} up to {size(need.at_most)}, {size(free)} {there}")


def _idle_workers(work: Work, machine: Machine, found: Findings) -> None:
    units = _units(work)
    if work.embeddings_left and work.embedders > units:
        found.warnings.append(
            f"cluster.embedding.embed_workers: {work.embedders} for {units} units of {work.clips_per_unit} clips, "
            f"{work.embedders - units} will idle; lower curation.embed.clips_per_unit"
        )
    if machine.cpus is None or not (work.matches or work.neighbours):
        return
    idle = min(SHARD_WORKERS, machine.cpus) - work.shards
    if idle > 0:
        line = f"workers: {work.shards} shards for matching on {machine.cpus} CPUs, {idle} will idle"
        found.lines.append(line)
        if work.clips * work.captions >= PAIRS_WORTH_WORKERS:
            found.warnings.append(f"corpora.rows_per_shard: lower it; {line}")
