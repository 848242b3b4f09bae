"""Reaching a store behind a URI (`s3://...`): its filesystem, what is asked for again, and files that are read there.

What a store does not give at once is asked for again: each request by its driver (throttling, resets, timeouts), and
what a driver gives up, as an answer that breaks off, by `retried`. A refusal is never asked for twice.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import fsspec

from raysem.credentials import holds_credentials
from raysem.errors import StorageError, UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

NOTHING_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What disks and drivers raise where there is no file to read: a fact about the location, not trouble."""
TRIES = 3
FIRST_PAUSE_SECONDS = 0.25
"""Before the second try; four times as long before the third."""
MISSING_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
"""What botocore raises before it asks anybody; by name, as it is imported by its driver alone."""

S3_SCHEMES = ("s3://", "s3a://")
BUCKET_SCHEMES = (*S3_SCHEMES, "gs://", "gcs://")
S3_ATTEMPTS = 5
"""Of one request, with growing pauses in between; AWS_MAX_ATTEMPTS and AWS_RETRY_MODE say otherwise."""
S3_CONNECTIONS = 50
"""Of one process at a time; the driver's own ten are soon held by answers that broke off."""
S3_SECONDS = {"connect": 10.0, "read": 30.0}
"""How long a connection, and the next bytes of an answer, are waited for; RAYSEM_S3_CONNECT_SECONDS and
RAYSEM_S3_READ_SECONDS say otherwise."""
UPLOAD_PART_BYTES = 16 * 2**20
"""A file of two parts or more is uploaded part by part, so that a lost request repeats only its own."""


def is_remote(location: str) -> bool:
    """True for a location with a scheme other than `file://`."""
    return "://" in location and not location.startswith("file://")


def filesystem(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of `location`, of a disk too, and the path within it.

    Raises:
        StorageError: there is no such scheme, the location holds a password, or it is a chain of filesystems, which
            may unpack an archive or reach another machine than the one it seems to name.
    """
    if "::" in location:
        raise StorageError(f"{location}: '::' chains filesystems; refused, name the file itself")
    if is_remote(location) and "@" in location and holds_credentials(location):
        raise StorageError(f"{location}: holds a password; refused, give it by the environment")
    options = _s3_options() if location.startswith(S3_SCHEMES) else {}
    try:
        fs, path = fsspec.core.url_to_fs(location, **options)
    except (ImportError, ValueError, TypeError) as error:  # TypeError: one that needs more than a location
        raise StorageError(f"{location}: no filesystem for this scheme ({error})") from error
    if options:
        fs.retries = 1  # its own tries would multiply with botocore's and with ours
    return fs, path


def _s3_options() -> dict[str, Any]:
    """What the S3 driver is told beyond the usual AWS variables, which it reads itself."""
    retries: dict[str, Any] = {}
    if not os.environ.get("AWS_RETRY_MODE"):
        retries["mode"] = "standard"
    if not os.environ.get("AWS_MAX_ATTEMPTS"):
        retries["total_max_attempts"] = S3_ATTEMPTS
    timeouts = {f"{name}_timeout": _s3_seconds(name, default) for name, default in S3_SECONDS.items()}
    # A listing kept from before would give the size of a file that another process has written anew since.
    config = {"retries": retries, "max_pool_connections": S3_CONNECTIONS, **timeouts}
    return {"config_kwargs": config, "use_listings_cache": False}


def _s3_seconds(name: str, default: float) -> float:
    variable = f"RAYSEM_S3_{name.upper()}_SECONDS"
    text = os.environ.get(variable) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{variable}={text}: expected a number of seconds above 0")
    return seconds


# -- trouble ----------------------------------------------------------------------------------------------------------


def trouble(location: str, error: Exception) -> StorageError:
    """The one line about what a disk or a store raised; raise it `from error`, which `retried` goes by."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return StorageError(f"{location}: cannot be reached or used ({reason})")


class _GivenUpError(StorageError):
    """It was tried often enough: whoever tries again around it need not."""

    def __reduce__(self) -> tuple[type[StorageError], tuple[Any, ...]]:
        return StorageError, self.args  # elsewhere it is what it says


def retried(action: Callable[[], T]) -> T:
    """What `action` returns; after a StorageError that may pass it is called anew, `TRIES` times in all.

    A permission, a driver or a scheme that is not there does not come by waiting: such an error is raised at once.
    """
    for attempt in range(1, TRIES):
        try:
            return action()
        except StorageError as error:
            if _is_final(error):
                raise
            log.info("%s; tried again (%d of %d)", error, attempt + 1, TRIES)
        # An answer that broke off keeps its connection until it is collected; without one free the next would wait.
        gc.collect()
        time.sleep(FIRST_PAUSE_SECONDS * 4 ** (attempt - 1))
    try:
        return action()
    except StorageError as error:
        if _is_final(error):
            raise
        raise _GivenUpError(f"{error}, tried {TRIES} times") from error.__cause__


def _is_final(error: StorageError) -> bool:
    """Whether another try cannot change it."""
    cause = error.__cause__
    return (
        cause is None
        or isinstance(error, _GivenUpError)
        or isinstance(cause, (PermissionError, ImportError, ValueError))
        or type(cause).__name__ in MISSING_CREDENTIALS
    )


@contextmanager
def _reaching(location: str) -> Iterator[None]:
    """One kind of error for a store that cannot be reached."""
    try:
        yield
    except (*NOTHING_THERE, StorageError):
        raise
    except Exception as error:  # each driver has classes of its own (botocore's are not OSErrors): none can be named
        if not is_remote(location):
            raise
        raise trouble(location, error) from error


def asked(location: str, action: Callable[[], T]) -> T:
    """What `action` returns, tried again where a store may give it later. It may be run more than once.

    Raises:
        StorageError: a store did not give it. What `NOTHING_THERE` names, and every error of a disk, comes as it is.
    """

    def once() -> T:
        with _reaching(location):
            return action()

    return retried(once) if is_remote(location) else once()


# -- files ------------------------------------------------------------------------------------------------------------


class HandleReader(io.RawIOBase):
    """A seekable reader over another file object. A class below it says in `read` what comes of a read."""

    def __init__(self, handle: IO[bytes]):
        self._handle = handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self.read(len(buffer)) or b""
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()


class _RemoteFile(HandleReader):
    """A driver's file object whose reads are tried again, and are never short before the end of the file."""

    def __init__(self, location: str, handle: IO[bytes]):
        super().__init__(handle)
        self._location = location
        self.size_bytes: int | None = getattr(handle, "size", None)

    def read(self, size: int | None = -1) -> bytes:
        begin = self._handle.tell()
        left = None if self.size_bytes is None else max(self.size_bytes - begin, 0)
        wanted = left if size is None or size < 0 else size if left is None else min(size, left)

        def once() -> bytes:
            self._handle.seek(begin)
            content = self._handle.read(-1 if wanted is None else wanted)
            if left is not None and len(content) != wanted:
                raise EOFError(f"{len(content)} bytes came of {wanted}")
            return content

        return asked(self._location, once)

    def readall(self) -> bytes:
        return self.read()


@contextmanager
def open_remote(location: str, block_bytes: int) -> Iterator[IO[bytes]]:
    """A seekable file object of a store; its `size_bytes` is that of the file, None where the store does not say.

    A read that fails is tried again in its place. It ends in a StorageError, or gives all that was asked for.
    """
    fs, path = filesystem(location)
    handle = asked(location, lambda: fs.open(path, "rb", block_size=block_bytes))
    with handle:
        yield _RemoteFile(location, handle)  # type: ignore[misc]


def upload(location: str, content: bytes) -> None:
    """Write one whole file to a store."""
    fs, path = filesystem(location)
    options = {"chunksize": UPLOAD_PART_BYTES} if location.startswith(S3_SCHEMES) else {}

    def once() -> None:
        try:
            fs.pipe_file(path, content, **options)
        except FileNotFoundError as error:
            response = getattr(error.__cause__, "response", {})
            if response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise StorageError(f"{location}: cannot be written ({error})") from None  # there is no such bucket
            # The answer to the last request of an upload was lost: the store knows it no more, being done with it.
            raise trouble(location, error) from error

    asked(location, once)
