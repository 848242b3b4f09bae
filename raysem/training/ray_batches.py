"""Batches whose clips are decoded by the CPUs of a Ray cluster, through Ray Data: the bits of `BatchLoader`, in order.

The rank plans which rows its batches are made of; tasks make examples of a few rows each, wherever there is a CPU, and
Ray Data hands them back in order. Tasks hold nothing: the table in memory lies in the object store once, and of a large
one an actor keeps the row groups at hand there, each read once for all tasks of the rank.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.actor import ActorHandle
from ray.data import ExecutionResources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysem.curation.ray_decode import clip_loader
from raysem.errors import RaysemError
from raysem.training.cache import LeastRecentlyUsed
from raysem.training.examples import Example, Examples
from raysem.training.loader import ClipBatch
from raysem.training.packed_examples import packed_examples, place_table, unpacked_examples
from raysem.training.plan import PlannedStep, StepPlan
from raysem.training.table import ClipTable, RowGroup, TextColumn, TrainingTable

log = logging.getLogger(__name__)

CLIPS_PER_TASK = 16
CLIPS_PER_EXECUTION = 16_384
"""Given to one execution of Ray Data, which holds a small block for each of its tasks from the start."""
READING_THREADS = 8
"""Row groups that are read at once."""
SAMPLE_BYTES = 4


class ClusterBatches:
    """`Batches` by tasks on the cluster's CPUs, about `prefetch_batches` ahead of the one that is used.

    That bounds the tasks at once, and the waveforms that wait in the object store.
    """

    def __init__(
        self,
        plan: StepPlan,
        examples: Examples,
        *,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
        cpus_per_task: float = 1.0,
    ):
        self._plan, self._examples = plan, examples
        self._rank, self._world_size, self._parts = rank, world_size, parts
        self._prefetch, self._pin_memory, self._cpus_per_task = prefetch_batches, pin_memory, cpus_per_task

    def batches(self, first_step: int, end_step: int) -> Generator[list[ClipBatch], None, None]:
        """For each step its parts. Closing the generator ends all that runs for it on the cluster."""
        if first_step >= end_step:
            return
        with _examples_in_store(self._examples, self._plan.num_sources) as examples:
            clips_per_step = self._plan.step(first_step).rows.rows_B.size // self._world_size
            steps = max(1, CLIPS_PER_EXECUTION // clips_per_step)
            for first in range(first_step, end_step, steps):
                planned = [self._parts_of(step) for step in range(first, min(first + steps, end_step))]
                with closing(self._made(examples, planned)) as made:
                    for parts in planned:
                        yield [self._collect(part, made) for part in parts]

    def _parts_of(self, step: int) -> list[PlannedStep]:
        return self._plan.parts_of_rank(step, self._rank, self._world_size, self._parts)

    def _collect(self, part: PlannedStep, made: Iterator[Example]) -> ClipBatch:
        examples = [next(made) for _ in part.rows.rows_B]
        return ClipBatch.of(part.source, examples, pin_memory=self._pin_memory)

    def _made(self, examples: Examples, planned: Sequence[list[PlannedStep]]) -> Generator[Example, None, None]:
        """The examples of a few steps, in order, from one execution of Ray Data."""
        places = place_table(
            (part.source, row, epoch)
            for parts in planned
            for part in parts
            for row, epoch in zip(part.rows.rows_B.tolist(), part.rows.epochs_B.tolist(), strict=True)
        )
        blocks = [places.slice(start, CLIPS_PER_TASK) for start in range(0, len(places), CLIPS_PER_TASK)]
        ahead = (self._prefetch + 1) * len(places) // len(planned)
        dataset = ray.data.from_arrow(blocks).map_batches(
            partial(_examples_of, examples=examples),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self._cpus_per_task,
            compute=ray.data.TaskPoolStrategy(size=max(2, -(-ahead // CLIPS_PER_TASK))),
        )
        _set_up(dataset, 2 * ahead * examples.crop_samples * SAMPLE_BYTES)
        tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
        with closing(cast(Generator[pa.Table, None, None], tables)):  # which ends the execution
            for table in tables:
                yield from unpacked_examples(table)


def _set_up(dataset: ray.data.Dataset, ahead_bytes: int) -> None:
    """Of this dataset alone: `context` is a copy of the process's."""
    context = dataset.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # Without a limit of our own, tasks go on until half of the whole object store is full. Ray Data counts what running
    # tasks will write, too: hence twice what is to wait.
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=ahead_bytes)


def _examples_of(places: pa.Table, examples: Examples) -> pa.Table:
    """A task: the examples of a few rows, whose blocks are asked for all at once.

    A clip that crashes its decoder, or takes too long, is replaced like every clip that cannot be used.
    """
    for source, table in enumerate(examples.clips.tables):
        assert isinstance(table, _TableInStore)
        table.ask_for(places.filter(pc.equal(places.column("source"), source)).column("row").to_pylist())
    with clip_loader(examples.clips.audio) as load:
        return packed_examples(examples.reading(examples.clips.loaded_by(load)), places)


class _TableInStore(ClipTable):
    """A table whose blocks are objects in Ray's store: each task has a copy of it.

    Args:
        blocks: their references, or the `_RowGroups` to ask for them.
    """

    def __init__(self, table: TrainingTable, blocks: Sequence[ray.ObjectRef] | ActorHandle):
        super().__init__(table.name, table.texts, table.block_rows)
        self._blocks = blocks
        self._asked: dict[int, ray.ObjectRef] = {}
        self._tables: dict[int, pa.Table] = {}

    def ask_for(self, rows: Sequence[int]) -> None:
        """Have the blocks of these rows read side by side."""
        if isinstance(self._blocks, ActorHandle):
            indices = sorted({self.block_index(row) for row in rows})
            self._asked |= {index: self._blocks.ref.remote(index) for index in indices}

    def block(self, index: int) -> pa.Table:
        """One block.

        Raises:
            StorageError: it cannot be read.
        """
        if index not in self._tables:
            try:
                self._tables[index] = ray.get(self._ref(index))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, RaysemError):
                    raise error.cause from None
                raise
        return self._tables[index]

    def _ref(self, index: int) -> ray.ObjectRef:
        if not isinstance(self._blocks, ActorHandle):
            return self._blocks[index]
        asked = self._asked[index] if index in self._asked else self._blocks.ref.remote(index)
        return ray.get(asked)[0]


class _RowGroups:
    """An actor that reads a table's row groups, each once for all tasks that want it, and knows those in use.

    They lie in the object store: `memory_bytes` of them, and those that tasks hold.
    """

    def __init__(self, row_groups: Sequence[RowGroup], texts: TextColumn, memory_bytes: int):
        self._row_groups, self._texts = row_groups, texts
        self._refs: LeastRecentlyUsed[int, ray.ObjectRef] = LeastRecentlyUsed(memory_bytes, keep_larger=True)

    def ready(self) -> None:
        """Answers when the actor has started."""

    def ref(self, index: int) -> list[ray.ObjectRef]:
        """One row group; in a list, so that the caller gets the reference and not what it stands for."""
        group = self._row_groups[index]
        return [self._refs.get(index, lambda: ray.put(group.read(self._texts)), lambda _: group.num_bytes)]


@contextmanager
def _examples_in_store(examples: Examples, num_sources: int) -> Iterator[Examples]:
    """The same examples, of the first tables laid into the object store. No decoded clip is kept."""
    actors: list[ActorHandle] = []

    def in_store(table: ClipTable) -> _TableInStore:
        assert isinstance(table, TrainingTable)
        if table.in_memory:
            return _TableInStore(table, [ray.put(table.block(0))])
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        how: Any = {"num_cpus": 0, "max_concurrency": READING_THREADS, "scheduling_strategy": here}
        actor: Any = ray.remote(**how)(_RowGroups).remote(table.row_groups, table.texts, table.memory_bytes)
        actors.append(actor)
        return _TableInStore(table, actor)

    try:
        tables = [in_store(table) for table in examples.clips.tables[:num_sources]]
        # Tasks that wait give their CPU to others: a herd of processes would start.
        ray.get([actor.ready.remote() for actor in actors])
        yield examples.reading(examples.clips.of(tables, cache_mib=0))
    finally:
        for actor in actors:
            ray.kill(actor)


def cpus_per_task(cluster_cpus: float, reserved_cpus: float) -> float:
    """1, or what the training processes leave of a small cluster: tasks that never fit would be waited for.

    Not a fraction where there is more: Ray keeps one idle process a CPU, and starts the others again and again.
    """
    left = cluster_cpus - reserved_cpus
    if left > 0.01:
        return min(1.0, left)
    log.warning(
        "training.decode: cluster: the training processes reserve all %g CPUs that Ray has, and no clip is decoded "
        "before it gets more; reserve less, or take decode: worker",
        cluster_cpus,
    )
    return 1.0
