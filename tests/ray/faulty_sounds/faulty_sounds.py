"""Sounds that end the process that reads them: `faulty://abort/a`, `faulty://segfault/a`, `faulty://hang/a`.

Of `faulty://once/<file>` the first reading aborts, and those after it get the file. A folder with this module and its
entry point on PYTHONPATH is enough for fsspec to know the scheme, in every process that a test starts.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import IO, Any

import fsspec


class FaultySounds(fsspec.AbstractFileSystem):
    """The crash comes when a file is opened: in the middle of `load_clip`, as that of a decoder would."""

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
            time.sleep(3600)
        return file.open("rb")
