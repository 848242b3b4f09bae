"""Clips that end the process that decodes them, or never end: loaded in a process of their own, which may die.

A codec's native code can abort or crash on bytes it does not expect, and no exception says so. The first attempt at a
clip needs no guard, only an end to its time (`decode_time`); where a process was lost, the next attempt uses
`GuardedDecoder`, which writes off the clip at fault and goes on with the others.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from typing import IO, Any, Self

import numpy as np

from raysem.audio.load import AudioSettings
from raysem.errors import ClipError, StageError, StorageError

log = logging.getLogger(__name__)

TRIES = 2
"""A process may also be killed for want of memory, which is no fault of the clip."""


class GuardedDecoder:
    """Loads clips as `load_clip` does, to the same samples, in a child process that is started anew when it dies.

    The child's memory is bounded by what `settings.limits` allow (where the system has such a bound), and its time for
    one clip by `max_seconds`, without what is waited for a store. Used within a `with` block.
    """

    def __init__(self, settings: AudioSettings, *, max_seconds: float):
        self._settings, self._max_seconds = settings, max_seconds
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self._child.end()

    def load_clip(
        self,
        audio_bytes: bytes | None,
        path: str | None,
        *,
        start_seconds: float | None = None,
        duration_seconds: float | None = None,
    ) -> np.ndarray:
        """Mono float32 samples (T,); see `raysem.audio.load.load_clip`.

        Raises:
            ClipError: as of `load_clip`, and with outcome crashed_decoder: the process died on the clip `TRIES` times,
                or took longer than `max_seconds` to decode, once.
            StorageError: as of `load_clip`.
            StageError: the process does not even start.
        """
        segment = {"start_seconds": start_seconds, "duration_seconds": duration_seconds}
        name = path or f"{len(audio_bytes or b'')} bytes"
        for _ in range(TRIES):
            self._child = self._child or _Child(self._settings, self._max_seconds)
            began = time.monotonic()
            try:
                answer, samples_T = self._child.load(audio_bytes, {"path": path, **segment})
            except _DiedError as death:
                self._child = None
                log.warning("%s: the process that decodes it ended with %s", name, death)
                if str(death) == _OUT_OF_TIME and time.monotonic() - began >= self._max_seconds:
                    reason = f"{name}: took longer than {self._max_seconds:g} s to decode"
                    raise ClipError("crashed_decoder", reason) from None
                how = str(death)
                continue
            if "outcome" in answer:
                raise ClipError(answer["outcome"], answer["reason"])
            if "trouble" in answer:
                raise StorageError(answer["trouble"])
            return samples_T
        raise ClipError("crashed_decoder", f"{name}: ended the process that decodes it with {how}, {TRIES} times")


_OUT_OF_TIME = "status 1"  # of `decode_time`, and of a Python that fails


class _DiedError(Exception):
    """The child is gone; the message is its signal or exit status."""


class _Child:
    """One process of `decoder_process`. Its messages are JSON and plain samples: nothing it says is executed here."""

    def __init__(self, settings: AudioSettings, max_seconds: float):
        # Paths that only this process was told of, as a Ray worker of its working folder, hold for the child too.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raysem.audio.decoder_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        try:
            self._send({"settings": settings.model_dump(mode="json"), "max_seconds": max_seconds})
            self._answer()
        except _DiedError as death:
            raise StageError(f"the process that decodes a clip ended with {death} when it started") from None

    def load(self, audio_bytes: bytes | None, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        size = None if audio_bytes is None else len(audio_bytes)
        self._send({**request, "size": size}, audio_bytes or b"")
        return self._answer()

    def end(self) -> None:
        """It has nothing to finish."""
        self._process.kill()
        self._how_it_ended()

    def _send(self, message: dict[str, Any], content: bytes = b"") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _DiedError(self._how_it_ended()) from None

    def _answer(self) -> tuple[dict[str, Any], np.ndarray]:
        output = self._process.stdout
        assert output is not None
        line = output.readline()
        if line.endswith(b"\n"):
            answer = json.loads(line)
            samples = read_exactly(output, 4 * answer.get("samples", 0))
            if samples is not None:
                return answer, np.frombuffer(samples, np.float32)
        raise _DiedError(self._how_it_ended())

    def _how_it_ended(self) -> str:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # of what was not sent any more
                continue
        status = self._process.wait()
        return signal.Signals(-status).name if status < 0 else f"status {status}"


def read_exactly(pipe: IO[bytes], size: int) -> bytes | None:
    """The next `size` bytes; None when the other end closes before."""
    content = pipe.read(size)
    return content if len(content) == size else None
