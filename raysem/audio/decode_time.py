"""An end to the time that decoding a clip may take. What is waited for a store is not counted: its driver ends that."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MOMENT = 1e-3  # what is left to a clip whose time was over when its fetching began


class _Clock:
    """Ends this process when its time is over, by a thread that does not need the interpreter."""

    def __init__(self, seconds: float):
        self._seconds = self._left = seconds
        self._since = 0.0

    def anew(self) -> None:
        """The whole time again, or at least nine tenths of it: to start the thread costs more than a short clip."""
        if self._left - (time.monotonic() - self._since) < 0.9 * self._seconds:
            self._left = self._seconds
            self.go()

    def go(self) -> None:
        self._since = time.monotonic()
        faulthandler.dump_traceback_later(self._left, exit=True, file=2)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._left = max(self._left - (time.monotonic() - self._since), _MOMENT)


_running: _Clock | None = None


@contextmanager
def ends_after(seconds: float) -> Iterator[Callable[[], None]]:
    """Ends this process, with status 1 and its stack on standard error, when the block takes longer.

    Native code that never returns is ended too. One block at a time in a process, on one thread. What it yields gives
    the block its time anew.
    """
    global _running
    _running = clock = _Clock(seconds)
    clock.go()
    try:
        yield clock.anew
    finally:
        clock.stop()
        _running = None


@contextmanager
def not_counted() -> Iterator[None]:
    """What happens within takes nothing of the time of the `ends_after` around it, if there is one."""
    clock = _running
    if clock is None:
        yield
        return
    clock.stop()
    try:
        yield
    finally:
        clock.go()
