"""Log lines for the driver and the workers, and progress with an estimate of the time left."""

from __future__ import annotations

import logging
import sys
import time

from raysem.credentials import without_credentials

FORMAT = "%(asctime)s %(levelname).1s %(message)s"


class _Formatter(logging.Formatter):
    """Lines without credentials, whoever put them into a message or a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


def set_up(level: int = logging.INFO) -> None:
    """Send raysem's log lines to standard error. A job calls this once; the library never does."""
    logger = logging.getLogger("raysem")
    if not any(getattr(handler, "raysem", False) for handler in logger.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter(FORMAT, datefmt="%H:%M:%S"))
        handler.raysem = True  # type: ignore[attr-defined]
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Counts what is done and logs a line with rate and time left, at most every few seconds."""

    def __init__(self, what: str, total: int, unit: str, *, logger: logging.Logger, every_seconds: float = 10.0):
        self._what, self._total, self._unit = what, total, unit
        self._logger, self._every = logger, every_seconds
        self._done = 0
        self._began = self._spoke = time.monotonic()

    def advance(self, count: int) -> None:
        """Add `count` finished units."""
        self._done += count
        now = time.monotonic()
        if now - self._spoke >= self._every or self._done >= self._total:
            self._spoke = now
            rate = self._done / max(now - self._began, 1e-9)
            left = duration((self._total - self._done) / rate) if rate > 0 else "unknown"
            self._logger.info(
                "%s: %d of %d %s, %.1f/s, %s left", self._what, self._done, self._total, self._unit, rate, left
            )
