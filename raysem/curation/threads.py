"""Threads of Python over pieces of work, each of which torch computes on one thread.

Instead of torch's own threads within each operation: their barriers after every small step cost more than the step,
a hundred times so when other processes want the cores.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


@contextmanager
def one_thread_each(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads compute with one thread of torch each; those of the caller stay as many as they were."""
    started = threading.Barrier(num_threads + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread's first use of torch takes the number of the process: here, not later
        torch.set_num_threads(1)  # of this thread, and of those that use torch for the first time from now on
        started.wait()

    before = torch.get_num_threads()
    with ThreadPoolExecutor(num_threads, initializer=start) as pool:
        try:
            for _ in range(num_threads):
                pool.submit(int)
            started.wait()
            torch.set_num_threads(before)
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_order(pool: ThreadPoolExecutor, work: Iterable[Callable[[], Result]], *, num_ahead: int) -> Iterator[Result]:
    """The results of `work` in its order, `num_ahead` of which are being made or wait to be taken."""
    waiting: deque[Future[Result]] = deque()
    for piece in work:
        waiting.append(pool.submit(piece))
        if len(waiting) > num_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
