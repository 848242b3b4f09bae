"""Where a clip's bytes come from: memory, a local file, or a location behind a URI."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from raysem import storage
from raysem.errors import ClipError

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
    """Open a clip; ClipError `missing` or `empty` when there is nothing to decode."""
    if isinstance(audio, str):
        with _open_remote(audio) if storage.is_remote(audio) else _open_local(audio) as source:
            yield source
    else:
        if not len(audio):
            raise ClipError("empty", "0 bytes")
        yield Source(f"{len(audio)} bytes", io.BytesIO(audio))


@contextmanager
def _open_local(path: str) -> Iterator[Source]:
    local_path = storage.absolute(path)
    try:
        status = os.stat(local_path)
        if not stat.S_ISREG(status.st_mode):
            raise ClipError("missing", f"{path}: is not a file")
        if not status.st_size:
            raise ClipError("empty", f"{path}: 0 bytes")
        handle = open(local_path, "rb")  # noqa: SIM115 - closed below; the errors of the block are not those of open
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ClipError("missing", f"{path}: {error}") from error
    with handle:
        yield Source(path, handle, local_path)


@contextmanager
def _open_remote(location: str) -> Iterator[Source]:
    try:
        fs, path = storage.filesystem(location)
        remote = fs.open(path, "rb", block_size=REMOTE_BLOCK_BYTES)
    except FileNotFoundError as error:
        raise ClipError("missing", f"{location}: no such file") from error
    except Exception as error:  # each storage driver has error classes of its own (botocore's are not OSErrors)
        raise ClipError("missing", f"{location}: cannot be read ({type(error).__name__}: {error})") from error
    with remote:
        size = getattr(remote, "size", None)
        if size == 0:
            raise ClipError("empty", f"{location}: 0 bytes")
        reader = _RemoteReader(remote)
        if size is None or size <= FETCH_WHOLE_BYTES:
            content = reader.read()
            reader.check(location)
            yield Source(location, io.BytesIO(content))
            return
        try:
            yield Source(location, reader)  # type: ignore[arg-type]
        finally:
            reader.check(location)


class _RemoteReader(io.RawIOBase):
    """Keeps the error of a read that failed on the way.

    libsndfile and FFmpeg swallow errors of a Python file object and would report a lost connection as a broken clip.
    """

    def __init__(self, remote: IO[bytes]):
        self._remote = remote
        self._error: Exception | None = None

    def check(self, location: str) -> None:
        """ClipError `missing` if any read failed."""
        if self._error is not None:
            reason = f"{location}: reading failed ({type(self._error).__name__}: {self._error})"
            raise ClipError("missing", reason) from self._error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._remote.read(size)
        except Exception as error:  # as in _open_remote
            self._error = error
            return b""

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._remote.seek(offset, whence)

    def tell(self) -> int:
        return self._remote.tell()
