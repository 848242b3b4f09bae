"""Files on a disk or behind a URI (`s3://...`), through one set of calls.

A file written here is whole or not there at all: on a disk it is written beside its place and renamed, on an object
store one upload makes it visible at once. A location is a string; a path without a scheme is local.

What an object store does not give at once is asked for again: each request by its driver (throttling, resets,
timeouts), and what a driver gives up, as an answer that breaks off, by `retried`. A refusal is never asked for twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from raysem.credentials import holds_credentials
from raysem.errors import DataError, StorageError, UserError

log = logging.getLogger(__name__)

Location = str
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
S3_SECONDS = {"connect": 10.0, "read": 30.0}
"""How long a connection, and the next bytes of an answer, are waited for; RAYSEM_S3_CONNECT_SECONDS and
RAYSEM_S3_READ_SECONDS say otherwise."""
READ_AHEAD_BYTES = 8 * 2**20
"""Of a remote file: what one request brings beyond what was asked for."""
UPLOAD_PART_BYTES = 16 * 2**20
"""A file of two parts or more is uploaded part by part, so that a lost request repeats only its own."""


def is_remote(location: Location) -> bool:
    """True for a location with a scheme other than `file://`."""
    return "://" in location and not location.startswith("file://")


def absolute(location: Location | Path) -> Location:
    """`location` as a worker in another folder must spell it; URIs lose a trailing slash."""
    text = str(location)
    return text.rstrip("/") if is_remote(text) else str(Path(text.removeprefix("file://")).expanduser().absolute())


def join(location: Location, *parts: str) -> Location:
    """The location of `parts` below `location`."""
    return "/".join([location.rstrip("/"), *(part.strip("/") for part in parts)])


def name_of(location: Location) -> str:
    """The last part of a location, without its suffix."""
    return location.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


def parent_of(location: Location) -> Location:
    """The folder that holds `location`."""
    return location.rstrip("/").rsplit("/", 1)[0]


def filesystem(location: Location) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of `location` and the path within it.

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
    return {"config_kwargs": {"retries": retries, **timeouts}, "use_listings_cache": False}


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


def trouble(location: Location, error: Exception) -> StorageError:
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
def _reaching(location: Location) -> Iterator[None]:
    """One kind of error for a store that cannot be reached."""
    try:
        yield
    except (*NOTHING_THERE, StorageError):
        raise
    except Exception as error:  # each driver has classes of its own (botocore's are not OSErrors): none can be named
        if not is_remote(location):
            raise
        raise trouble(location, error) from error


def _asked(location: Location, action: Callable[[], T]) -> T:
    """What `action` returns, tried again where a store may give it later. It may be run more than once."""

    def once() -> T:
        with _reaching(location):
            return action()

    return retried(once) if is_remote(location) else once()


def check_bucket(location: Location) -> None:
    """Nothing for a disk. StorageError where the store cannot be reached, refuses us, or has no such bucket."""
    if not location.startswith(BUCKET_SCHEMES):
        if is_remote(location):
            exists(location)
        return
    fs, path = filesystem(location)
    bucket = path.split("/", 1)[0]
    try:
        _asked(location, lambda: fs.info(bucket))
    except FileNotFoundError as error:
        raise StorageError(f"{location}: there is no bucket {bucket!r}") from error


def exists(location: Location) -> bool:
    """Whether a file or a folder is there."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    if not is_remote(location):
        return fs.exists(path)
    try:
        _asked(location, lambda: fs.info(path))  # `fs.exists` of a bucket takes every error for a no
    except NOTHING_THERE:
        return False
    return True


def is_folder(location: Location) -> bool:
    """Whether `location` is a folder (on an object store: whether keys start with it)."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    return _asked(location, lambda: fs.isdir(path))


def size_bytes(location: Location) -> int:
    """Size of one file."""
    fs, path = filesystem(location)
    return int(_asked(location, lambda: fs.size(path)))


def list_files(location: Location, suffix: str = "") -> list[Location]:
    """The files directly in a folder, sorted by name; an absent folder has none."""
    return [child for child, kind in _children(location) if kind == "file" and child.endswith(suffix)]


def list_folders(location: Location) -> list[Location]:
    """The folders directly in a folder, sorted by name; an absent folder has none."""
    return [child for child, kind in _children(location) if kind == "directory"]


def files_below(location: Location) -> Iterator[str]:
    """The files in a folder of a store and in its sub-folders, as paths relative to it."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    for name in _asked(location, lambda: fs.find(path)):
        yield name.removeprefix(path.rstrip("/") + "/")


def _children(location: Location) -> list[tuple[Location, str]]:
    fs, path = filesystem(location)
    fs.invalidate_cache()
    try:
        entries = _asked(location, lambda: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    # `ls` of a file, and on an object store of a folder made by hand, lists the place itself
    itself = path.rstrip("/")
    kinds = {entry["name"].rstrip("/"): entry["type"] for entry in entries if entry["name"].rstrip("/") != itself}
    return [(join(location, name.rsplit("/", 1)[-1]), kind) for name, kind in sorted(kinds.items())]


def read_bytes(location: Location) -> bytes:
    """The whole file; FileNotFoundError when it is not there."""
    fs, path = filesystem(location)
    return _asked(location, lambda: fs.cat_file(path))


def read_json(location: Location) -> Any:
    """The JSON value in a file."""
    return json.loads(read_bytes(location))


@contextmanager
def open_read(location: Location) -> Iterator[IO[bytes]]:
    """A seekable file object."""
    if is_remote(location):
        with open_remote(location, READ_AHEAD_BYTES) as remote:
            yield remote
        return
    fs, path = filesystem(location)
    with fs.open(path, "rb") as handle:
        yield handle


@contextmanager
def open_remote(location: Location, block_bytes: int) -> Iterator[IO[bytes]]:
    """A seekable file object of a store; its `size_bytes` is that of the file, None where the store does not say.

    A read that fails is tried again in its place. It ends in a StorageError, or gives all that was asked for.
    """
    fs, path = filesystem(location)
    handle = _asked(location, lambda: fs.open(path, "rb", block_size=block_bytes))
    with handle:
        yield _RemoteFile(location, handle)  # type: ignore[misc]


class _RemoteFile(io.RawIOBase):
    """A driver's file object whose reads are tried again, and are never short before the end of the file."""

    def __init__(self, location: Location, handle: IO[bytes]):
        self._location, self._handle = location, handle
        self.size_bytes: int | None = getattr(handle, "size", None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

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

        return _asked(self._location, once)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()


@contextmanager
def whole_file(location: Location) -> Iterator[IO[bytes]]:
    """A file object to write; the file appears at `location` when the block ends without an error, else never."""
    if is_remote(location):
        buffer = io.BytesIO()
        yield buffer
        _upload(location, buffer.getvalue())
        return
    target = Path(absolute(location))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _upload(location: Location, content: bytes) -> None:
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

    _asked(location, once)


def write_bytes(location: Location, content: bytes) -> None:
    """Write one whole file."""
    with whole_file(location) as handle:
        handle.write(content)


def write_text(location: Location, content: str) -> None:
    """Write one whole file as UTF-8."""
    write_bytes(location, content.encode())


def write_json(location: Location, content: Any) -> None:
    """Write one whole JSON file, indented, keys in the order given."""
    write_text(location, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_table(location: Location, table: pa.Table, *, row_group_rows: int = 65_536) -> None:
    """Write one whole Parquet file, the same bytes for the same table."""
    with whole_file(location) as handle:
        pq.write_table(table, handle, compression="zstd", row_group_size=row_group_rows)


def read_table(location: Location, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file, or all Parquet files of a folder in the order of their names."""
    files = [location] if location.endswith(".parquet") else list_files(location, ".parquet")
    if not files:
        raise DataError(f"{location}: no Parquet file there")
    return pa.concat_tables([_read_one(file, columns) for file in files])


def _read_one(file: Location, columns: Sequence[str] | None) -> pa.Table:
    with open_parquet(file, columns) as parquet:
        return parquet.read(columns=list(columns) if columns is not None else None)


@contextmanager
def open_parquet(file: Location, columns: Sequence[str] | None = None) -> Iterator[pq.ParquetFile]:
    """The file, known to have `columns`; it is read within the block.

    Raises:
        DataError: there is no such file or column, or the file is damaged.
        StorageError: the disk or the store failed, also within the block.
    """
    try:
        with open_read(file) as handle:
            parquet = pq.ParquetFile(handle)
            refuse_python_types(parquet.schema_arrow, file)
            absent = [name for name in columns or () if name not in parquet.schema_arrow.names]
            if absent:
                raise DataError(f"{file}: no column {absent[0]!r}; there are {parquet.schema_arrow.names}")
            yield parquet
    except NOTHING_THERE:
        raise DataError(f"{file}: no such file") from None
    except StorageError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or "deserializ" not in str(error)):
            raise trouble(file, error) from error  # Arrow has OSErrors without a number for damaged bytes
        raise DataError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def refuse_python_types(schema: pa.Schema, file: Location) -> None:
    """DataError for a column of a type that Python code reads: that of `ray.data.arrow_pickled_object` unpickles it.

    Importing ray.data registers the type, and then a file needs no more than to name it.
    """
    for field in schema:
        found = _python_type(field.type)
        if found is not None:
            raise DataError(
                f"{file}: column {field.name!r} is of the type {found}, which runs code to be read; refused"
            )


def _python_type(kind: pa.DataType) -> str | None:
    if isinstance(kind, pa.ExtensionType):
        return kind.extension_name
    if isinstance(kind, pa.BaseExtensionType):
        return _python_type(kind.storage_type)
    parts = [kind.value_type] if pa.types.is_dictionary(kind) else [kind.field(i).type for i in range(kind.num_fields)]
    return next((found for part in parts if (found := _python_type(part)) is not None), None)


def read_rows(location: Location, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows [start, stop) of one Parquet file; only the row groups that hold them are read."""
    with open_parquet(location, columns) as file:
        groups: list[int] = []
        first = offset = 0
        for index in range(file.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if first < stop and first + rows > start:
                if not groups:
                    offset = first
                groups.append(index)
            first += rows
        table = file.read_row_groups(groups, columns=list(columns) if columns is not None else None)
    return table.slice(start - offset, stop - start)


def count_rows(location: Location) -> int:
    """Rows of one Parquet file, from its footer."""
    with open_parquet(location) as file:
        return file.metadata.num_rows


def digest_of(location: Location) -> str:
    """SHA-256 of a file's bytes, in hex."""
    sha = hashlib.sha256()
    with open_read(location) as handle:
        while chunk := handle.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def delete(location: Location) -> None:
    """Remove a file or a whole folder; nothing happens when it is not there."""
    if is_remote(location):
        fs, path = filesystem(location)
        fs.invalidate_cache()
        _asked(location, lambda: _delete_remote(fs, path))
        return
    local = Path(absolute(location))
    if local.is_dir() and not local.is_symlink():
        shutil.rmtree(local)
    else:
        local.unlink(missing_ok=True)


def _delete_remote(fs: fsspec.AbstractFileSystem, path: str) -> None:
    if not fs.isdir(path):
        with suppress(*NOTHING_THERE):
            fs.rm_file(path)
        return
    with suppress(*NOTHING_THERE):  # another process deletes it, too
        fs.rm(path, recursive=True)
    fs.invalidate_cache()
    if fs.isdir(path):  # S3 answers 200 to a request for many keys, whatever became of each
        raise OSError(f"something of it is left, {fs.ls(path, detail=False)[0]} for one")


def free_bytes(location: Location) -> int | None:
    """Free space where a local `location` is or will be; None for an object store."""
    if is_remote(location):
        return None
    folder = Path(absolute(location))
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
