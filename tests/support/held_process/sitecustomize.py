"""Holds a Python process, for ever, in the middle of a file that it writes: a test can then kill it right there.

Each process that has this folder in PYTHONPATH imports this when it starts. $RAYSEM_TEST_HOLD is a pattern of paths, as
of fnmatch: a thread that begins to write such a file leaves a few bytes in it, and a note in the folder that
$RAYSEM_TEST_HELD names, and stays. The code that writes knows nothing of it.
"""

import json
import os
import sys
import time
from fnmatch import fnmatch
from typing import Any

PATTERN, NOTES = os.environ.get("RAYSEM_TEST_HOLD", ""), os.environ.get("RAYSEM_TEST_HELD", "")


def hold(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: it is told of each file before it is opened."""
    if event != "open":
        return
    path, mode, _ = arguments  # of os.open there is no mode
    if not isinstance(mode, str) or mode[0] not in "wxa" or not isinstance(path, str | os.PathLike):
        return
    path = os.fspath(path)
    if not isinstance(path, str) or not fnmatch(path, PATTERN):
        return
    begun = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(begun, b"half a file")
    note = os.path.join(NOTES, f"{os.getpid()}.part")
    writing = os.open(note, os.O_WRONLY | os.O_CREAT)
    os.write(writing, json.dumps({"pid": os.getpid(), "path": path}).encode())
    os.rename(note, note.removesuffix("part") + "json")
    while True:
        time.sleep(60)


if PATTERN:
    sys.addaudithook(hold)
