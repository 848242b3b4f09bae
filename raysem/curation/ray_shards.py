"""Work on whole shards over a Ray cluster: an actor takes a shard's name and writes that shard with its done-record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.data

from raysem import storage
from raysem.curation.ray_metrics import count_scored
from raysem.errors import StageError
from raysem.ledger import DoneRecord, Ledger, total
from raysem.logs import Progress

log = logging.getLogger(__name__)

ROUNDS = 3


class ShardWork(Protocol):
    """Makes one shard: its record (rows and outcomes) and its tables by kind. The same shard gives the same tables."""

    def __call__(self, shard: str) -> tuple[DoneRecord, Mapping[str, pa.Table]]: ...


def make_shards(
    shards: Sequence[str],
    output: storage.Location,
    work: Callable[..., ShardWork],
    arguments: Mapping[str, Any],
    *,
    what: str,
    workers: int,
    num_cpus: float = 0.5,
    num_gpus: float = 0.0,
) -> dict[str, Any]:
    """Make the shards that have no done-record yet; returns the counts over all attempts.

    Args:
        work: a class; each actor builds one with `arguments` and calls it once a shard.
        workers: actors at most; they never take all CPUs of the cluster.

    Raises:
        StageError: shards stay unfinished.
    """
    ledger = Ledger(output)
    ledger.plan(len(shards))
    for round_number in range(ROUNDS):
        pending = ledger.pending(shards, verify=round_number == 0)
        if not pending:
            break
        cpus = ray.cluster_resources().get("CPU", 1.0)
        count = max(1, min(workers, len(pending), int(cpus / 2 / num_cpus) or 1))
        progress = Progress(what, len(pending), "shards", logger=log)
        dataset = ray.data.from_items(
            [{"shard": name} for name in pending], override_num_blocks=min(len(pending), 20_000)
        ).map_batches(
            _ShardActor,
            fn_constructor_kwargs={"output": output, "work": work, "arguments": dict(arguments), "stage": what},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=num_cpus,
            num_gpus=num_gpus or None,
            compute=ray.data.ActorPoolStrategy(size=count),
        )
        for _row in rows_of(dataset):
            progress.advance(1)
    missing = ledger.pending(shards, verify=False)
    if missing:
        raise StageError(f"{output}: {len(missing)} shards stay unfinished after {ROUNDS} rounds, {missing[0]} first")
    records = ledger.records()
    return total(records[name] for name in shards)


def rows_of(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows of `dataset` as they are made. What a worker raises arrives in a RayTaskError whose `cause` it is."""
    # Without it Ray Data puts an exception of its own around ours, and ours is lost on the way between processes.
    dataset.context.raise_original_map_exception = True
    yield from dataset.iter_rows()


class _ShardActor:
    def __init__(
        self, output: storage.Location, work: Callable[..., ShardWork], arguments: Mapping[str, Any], stage: str
    ):
        self._ledger, self._work, self._stage = Ledger(output), work(**arguments), stage

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = batch["shard"].to_pylist()
        for name in names:
            began = time.monotonic()
            record, tables = self._work(name)
            spent = time.monotonic() - began
            self._ledger.finish(replace(record, seconds=round(spent, 3)), tables)
            captions = getattr(self._work, "num_captions", 0)  # of work that scores every row against as many
            if captions:
                count_scored(self._stage, record.rows * captions, seconds=spent)
        return pa.table({"shard": pa.array(names, pa.string())})


def run_as_task(function: Callable[..., Any], *arguments: Any, num_cpus: float = 0.5, num_gpus: float = 0.0) -> Any:
    """Run `function` on a worker of the cluster and wait for it, so that the driver's machine stays light."""
    remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=2)(function)
    return ray.get(remote.remote(*arguments))
