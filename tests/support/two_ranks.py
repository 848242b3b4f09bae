"""A job on the two processes of a gloo group."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_two_ranks(job: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `job(rank, *arguments)` returns on each rank of a gloo group of two processes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    mp.spawn(_rank, args=(job, folder, arguments), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def _rank(rank: int, job: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # A file: a free port that was looked up may be taken by the time the ranks bind it.
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    try:
        torch.save(job(rank, *arguments), folder / f"rank{rank}.pt")
        dist.barrier()  # none leaves while the other still speaks
    finally:
        gc.collect()  # what an error's traceback held of the group goes before the group
        dist.destroy_process_group()
    os._exit(0)  # the result is written; torch's own threads have aborted a process that ends in its usual way
