"""Where a clip's bytes come from: memory, a local file, or a location behind a URI.

Nothing at the place is an outcome of the clip (`missing`). A disk or a store that does not give what is there is not:
that is a StorageError, which stops a job instead of rejecting its clips one by one.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO

from raysem import remote, storage
from raysem.audio.decode_time import not_counted
from raysem.errors import ClipError, StorageError

# A remote file up to this size is fetched with one request; of a larger one only the blocks that are asked for.
FETCH_WHOLE_BYTES = 8 * 2**20
REMOTE_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """A readable clip; `local_path` lets libsndfile read a disk file by itself, without calls into Python."""

    name: str
    handle: IO[bytes]
    local_path: str | None = None


@contextmanager
def open_source(audio: bytes | str) -> Iterator[Source]:
    """Open a clip and read it within the block.

    Raises:
        ClipError: `missing` or `empty`, when there is nothing to decode.
        StorageError: the disk or the store failed. One of a read within the block comes at the block's end, in place of
            whatever the decoder made of it; only a new start helps then (`remote.retried`).
    """
    if isinstance(audio, str):
        with _open_remote(audio) if remote.is_remote(audio) else _open_local(audio) as source:
            yield source
    else:
        if not len(audio):
            raise ClipError("empty", "0 bytes")
        yield Source(f"{len(audio)} bytes", io.BytesIO(audio))


def read_clip_file(location: str, max_bytes: int) -> bytes:
    """The first `max_bytes` of a clip's file as they are; errors as of `open_source`, after trying again."""

    def read() -> bytes:
        with open_source(location) as source:
            return source.handle.read(max_bytes)

    return remote.retried(read)


@contextmanager
def _open_local(path: str) -> Iterator[Source]:
    try:
        local_path = storage.absolute(path)
        status = os.stat(local_path)
        if not stat.S_ISREG(status.st_mode):
            raise ClipError("missing", f"{path}: is not a file")
        if not status.st_size:
            raise ClipError("empty", f"{path}: 0 bytes")
        handle = open(local_path, "rb")  # noqa: SIM115 - closed below; the errors of the block are not those of open
    except (*remote.NOTHING_THERE, ValueError, RuntimeError) as error:  # a NUL in the name; the home (~x) of nobody
        raise ClipError("missing", f"{path}: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no file can have this name
            raise ClipError("missing", f"{path}: {error}") from error
        raise remote.trouble(path, error) from error
    with handle:
        reader = _Reader(path, handle)
        try:
            # A read that fails within libsndfile leaves it short of samples, and PyAV then reads the same through here.
            yield Source(path, reader, local_path)  # type: ignore[arg-type]
        finally:
            reader.check()


@contextmanager
def _open_remote(location: str) -> Iterator[Source]:
    with ExitStack() as stack:
        try:
            with not_counted():
                handle = stack.enter_context(remote.open_remote(location, REMOTE_BLOCK_BYTES))
        except remote.NOTHING_THERE as error:
            raise ClipError("missing", f"{location}: no such file") from error
        size = getattr(handle, "size_bytes", None)
        if size == 0:
            raise ClipError("empty", f"{location}: 0 bytes")
        reader = _Reader(location, handle, not_counted)
        if size is None or size <= FETCH_WHOLE_BYTES:
            content = reader.read()
            reader.check()
            yield Source(location, io.BytesIO(content))
            return
        try:
            yield Source(location, reader)  # type: ignore[arg-type]
        finally:
            reader.check()


class _Reader(remote.HandleReader):
    """Keeps the error of a read that failed on the way; from then on there is nothing more to read.

    libsndfile and FFmpeg swallow errors of a Python file object and would report a lost connection as a broken clip.
    """

    def __init__(
        self, location: str, handle: IO[bytes], waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    ):
        super().__init__(handle)
        self._location, self._waiting = location, waiting
        self._error: Exception | None = None

    def check(self) -> None:
        """StorageError if any read failed; ClipError `missing` if it did because the file is gone meanwhile."""
        if isinstance(self._error, remote.NOTHING_THERE):
            raise ClipError("missing", f"{self._location}: no such file any more") from self._error
        if isinstance(self._error, StorageError):
            raise self._error
        if self._error is not None:
            raise remote.trouble(self._location, self._error) from self._error

    def read(self, size: int | None = -1) -> bytes:
        if self._error is not None:
            return b""
        try:
            with self._waiting():
                return self._handle.read(-1 if size is None else size)
        except Exception as error:  # whatever a driver raises: kept, and raised by `check`
            self._error = error
            return b""
