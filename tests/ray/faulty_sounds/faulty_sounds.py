"""Sounds that end the process that reads them: `faulty://abort/a`, `faulty://segfault/a`, `faulty://hang/a`.

Of `faulty://once/<file>` the first reading aborts, and those after it get the file; `faulty://slow/<file>` takes three
seconds to open and as long for each read. A folder with this module and its
entry point on PYTHONPATH is enough for fsspec to know the scheme, in every process that a test starts.
"""

from __future__ import annotations

import ctypes
import io
import os
import time
from pathlib import Path
from typing import IO, Any

import fsspec

SLOW_SECONDS = 3


class FaultySounds(fsspec.AbstractFileSystem):
    """The crash comes in the middle of `load_clip`, as that of a decoder would: when the file is opened, or closed."""

    protocol = "faulty"

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> IO[bytes]:
        how, _, name = self._strip_protocol(path).partition("/")
        file = Path("/", name)
        mark = file.with_suffix(".crashed")
        if how == "abort" or (how == "once" and not mark.exists()):
            if how == "once":
                mark.touch()
            os.abort()
        elif how == "segfault":
            ctypes.string_at(0)
        elif how == "hang":
            return _Hanging()
        elif how == "slow":
            time.sleep(SLOW_SECONDS)
            return _Slow(file.read_bytes())
        return file.open("rb")


class _Hanging(io.BytesIO):
    """Some bytes; the hang comes after they were fetched, when the decoder is done with them."""

    def __init__(self) -> None:
        super().__init__(b"no sound at all")

    def close(self) -> None:
        time.sleep(3600)


class _Slow(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        time.sleep(SLOW_SECONDS)
        return super().read(size)
