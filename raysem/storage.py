"""Files and folders on a disk or behind a URI (`s3://...`), through one set of calls.

A file written here is whole or not there at all: on a disk it is written beside its place and renamed, on an object
store one upload makes it visible at once. A location is a string; a path without a scheme is local.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from raysem.errors import DataError, DiskFullError, StorageError
from raysem.remote import (
    BUCKET_SCHEMES,
    NOTHING_THERE,
    asked,
    filesystem,
    is_remote,
    open_remote,
    trouble,
    upload,
)

Location = str
READ_AHEAD_BYTES = 8 * 2**20
"""Of a remote file: what one request brings beyond what was asked for."""


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


def check_bucket(location: Location) -> None:
    """Nothing for a disk. StorageError where the store cannot be reached, refuses us, or has no such bucket."""
    if not location.startswith(BUCKET_SCHEMES):
        if is_remote(location):
            exists(location)
        return
    fs, path = filesystem(location)
    bucket = path.split("/", 1)[0]
    try:
        asked(location, lambda: fs.info(bucket))
    except FileNotFoundError as error:
        raise StorageError(f"{location}: there is no bucket {bucket!r}") from error


def exists(location: Location) -> bool:
    """Whether a file or a folder is there."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    if not is_remote(location):
        return fs.exists(path)
    try:
        asked(location, lambda: fs.info(path))  # `fs.exists` of a bucket takes every error for a no
    except NOTHING_THERE:
        return False
    return True


def is_folder(location: Location) -> bool:
    """Whether `location` is a folder (on an object store: whether keys start with it)."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    return asked(location, lambda: fs.isdir(path))


def size_bytes(location: Location) -> int:
    """Size of one file."""
    fs, path = filesystem(location)
    return int(asked(location, lambda: fs.size(path)))


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
    for name in asked(location, lambda: fs.find(path)):
        yield name.removeprefix(path.rstrip("/") + "/")


def write_times(location: Location, suffix: str = "") -> dict[Location, float | None]:
    """The files directly in a folder, sorted by name, each with the second since 1970 in which it was written.

    It is None where the store does not say. One listing, however many files there are.
    """
    return {
        child: _second_of(entry)
        for child, entry in _entries(location)
        if entry["type"] == "file" and child.endswith(suffix)
    }


def _second_of(entry: Mapping[str, Any]) -> float | None:
    """The time in a listing, under the name that its driver has for it."""
    written = next((entry[name] for name in ("mtime", "LastModified", "created") if entry.get(name)), None)
    if isinstance(written, datetime):
        return written.timestamp()
    return float(written) if isinstance(written, (int, float)) else None


def _children(location: Location) -> list[tuple[Location, str]]:
    return [(child, entry["type"]) for child, entry in _entries(location)]


def _entries(location: Location) -> list[tuple[Location, dict[str, Any]]]:
    """What is directly in a folder, sorted by name, as its driver lists it."""
    fs, path = filesystem(location)
    fs.invalidate_cache()
    try:
        entries = asked(location, lambda: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    # `ls` of a file, and on an object store of a folder made by hand, lists the place itself
    itself = path.rstrip("/")
    named = {entry["name"].rstrip("/"): entry for entry in entries if entry["name"].rstrip("/") != itself}
    return [(join(location, name.rsplit("/", 1)[-1]), entry) for name, entry in sorted(named.items())]


def read_bytes(location: Location) -> bytes:
    """The whole file; FileNotFoundError when it is not there."""
    fs, path = filesystem(location)
    return asked(location, lambda: fs.cat_file(path))


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
def whole_file(location: Location) -> Iterator[IO[bytes]]:
    """A file object to write; the file appears at `location` when the block ends without an error, else never.

    Raises:
        DiskFullError: it does not fit; nothing is left of it.
    """
    if is_remote(location):
        buffer = io.BytesIO()
        yield buffer
        upload(location, buffer.getvalue())
        return
    target = Path(absolute(location))
    with _full_disk_named(location):
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


@contextmanager
def _full_disk_named(location: Location) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = "the disk is full; make space, and the same command goes on from what is finished"
        raise DiskFullError(f"{location}: {what} ({error.strerror})") from error


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
    """Write one whole Parquet file, the same bytes for the same table; each of its pages has a checksum."""
    with whole_file(location) as handle:
        pq.write_table(table, handle, compression="zstd", row_group_size=row_group_rows, write_page_checksum=True)


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
            parquet = pq.ParquetFile(handle, page_checksum_verification=True)
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
        if isinstance(error, OSError) and error.errno is not None:
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
        asked(location, lambda: _delete_remote(fs, path))
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
