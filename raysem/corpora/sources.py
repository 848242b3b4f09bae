"""The files that corpora are published in: csv tables, folders of audio, paths written in tables."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import posixpath
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Annotated, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BeforeValidator

from raysem import storage
from raysem.errors import DataError, StorageError
from raysem.remote import is_remote

_LOSSLESS = (".wav", ".wave", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".au", ".caf")
_LOSSY = (".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".wma")
_CONTAINERS = (".mp4", ".webm", ".mka", ".mkv")
MAX_LINE_CHARACTERS = 2**24
"""Of a text file: a gzip of a few kilobytes may hold a line of gigabytes."""
AUDIO_EXTENSIONS = frozenset(_LOSSLESS + _LOSSY + _CONTAINERS)


def _split_commas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
"""Several names; in text, separated by commas."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a table, and where it stands."""

    values: Mapping[str, str]
    place: str

    def text(self, column: str) -> str:
        """The value without spaces around it; DataError when empty."""
        value = self.values[column].strip()
        if not value:
            raise DataError(f"{self.place}: column {column!r} is empty")
        return value

    def number(self, column: str) -> float:
        """The value as a finite number."""
        try:
            number = float(self.values[column])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{self.place}: {column} is {self.values[column]!r}, expected a number")
        return number

    def whole_number(self, column: str, lowest: int, highest: int) -> int:
        """The value as an integer within both bounds."""
        value = self.values[column].strip()
        if not value.removeprefix("-").isdecimal() or not lowest <= int(value) <= highest:
            raise DataError(f"{self.place}: {column} is {value!r}, expected a whole number from {lowest} to {highest}")
        return int(value)


def require_folder(root: str, needs: str) -> str:
    """`root` as an absolute location; DataError that says what the corpus needs when it is no folder."""
    location = storage.absolute(root)
    if not storage.is_folder(location):
        what = "is a file, expected a folder" if storage.exists(location) else "no such folder"
        raise DataError(f"{location}: {what}; at this root there must be {needs}")
    return location


def first_existing(root: str, candidates: Sequence[str], needs: str) -> str:
    """The first of `candidates` (paths below root) that exists."""
    found = find_first(root, candidates)
    if found is None:
        raise DataError(f"{root}: none of {', '.join(candidates)} is there; at this root there must be {needs}")
    return found


def find_first(root: str, candidates: Sequence[str]) -> str | None:
    """The first of `candidates` (paths below root) that exists, or None."""
    return next((at for at in (storage.join(root, name) for name in candidates) if storage.exists(at)), None)


def split_tables(
    root: str, candidates: Mapping[str, Sequence[str]], wanted: Sequence[str], needs: str
) -> dict[str, str]:
    """The table of each split of a corpus: of the `wanted` ones, which must be there; else of all that are there.

    Args:
        candidates: for each split the paths below root that its table may have, the first that exists is taken.
    """
    if wanted:
        return {split: first_existing(root, candidates[split], needs) for split in wanted}
    found = {split: table for split, names in candidates.items() if (table := find_first(root, names))}
    if not found:
        raise DataError(f"{root}: no table of {', '.join(candidates)}; at this root there must be {needs}")
    return found


def inside(root: str, path: str, place: str) -> str:
    """`path`, as written in a table or an archive, relative to `root`; DataError when it points outside.

    Only the text is judged: a symbolic link below the root was put there by the owner of the disk, a table was not.
    """
    written = path.strip().replace("\\", "/")
    for prefix in (root.rstrip("/") + "/", f"file://{root.rstrip('/')}/"):
        written = written.removeprefix(prefix)
    relative = posixpath.normpath(written)
    drive = len(written) > 1 and written[1] == ":"
    if not path.strip() or "\0" in path or "://" in written or drive:
        raise DataError(f"{place}: {path!r} is not a path below {root}")
    if relative.startswith("/") or relative == ".." or relative.startswith("../"):
        raise DataError(f"{place}: {path!r} points outside {root}; refused")
    return relative


class AudioFiles:
    """The audio files below a folder, found by name whatever their extension.

    Published tables name the original format; copies of the same corpus are often flac, ogg or mp3. Names are
    compared in Unicode's composed form, since macOS writes them decomposed.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._by_path: dict[str, list[str]] = {}
        for relative in walk_files(folder):
            stem, extension = posixpath.splitext(relative)
            if extension.lower() in AUDIO_EXTENSIONS:
                self._by_path.setdefault(unicodedata.normalize("NFC", stem), []).append(relative)

    def __len__(self) -> int:
        return sum(len(files) for files in self._by_path.values())

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for path, files in self._by_path.items():
            stems.setdefault(posixpath.basename(path), []).extend(files)
        return stems

    def relative_paths(self) -> list[str]:
        """Every audio file, sorted."""
        return sorted(file for files in self._by_path.values() for file in files)

    def find(self, path: str, place: str) -> str | None:
        """The location of `path` (relative, with or without an extension), or of the same name in another format."""
        stem, extension = posixpath.splitext(path)
        if extension.lower() not in AUDIO_EXTENSIONS:
            stem = path
        return self._one(self._by_path.get(unicodedata.normalize("NFC", stem), []), path, place)

    def find_stem(self, stem: str, place: str) -> str | None:
        """The location of the file with this name, in any folder below and any format."""
        return self._one(self._by_stem.get(unicodedata.normalize("NFC", stem), []), stem, place)

    def _one(self, files: list[str], wanted: str, place: str) -> str | None:
        if not files:
            return None
        exact = [file for file in files if unicodedata.normalize("NFC", file) == unicodedata.normalize("NFC", wanted)]
        chosen = exact or files
        if len(chosen) > 1:
            raise DataError(f"{place}: {wanted!r} could be any of {sorted(chosen)} below {self.folder}; keep one")
        return storage.join(self.folder, chosen[0])


def walk_files(folder: str) -> Iterator[str]:
    """The paths of all files below a folder, relative to it; hidden ones are left out."""
    if is_remote(folder):
        yield from storage.files_below(folder)
        return
    yield from _walk_local(storage.absolute(folder), "", set())


def _walk_local(folder: str, prefix: str, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a symbolic link back up
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk_local(entry.path, f"{prefix}{entry.name}/", seen)
        else:
            yield f"{prefix}{entry.name}"


class _Lines(io.TextIOWrapper):
    """A text file of bounded lines."""

    def __init__(self, location: str, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self._location = location

    def __next__(self) -> str:  # type: ignore[override]
        line = self.readline(MAX_LINE_CHARACTERS)
        if not line:
            raise StopIteration
        if len(line) >= MAX_LINE_CHARACTERS:
            raise DataError(f"{self._location}: a line has {MAX_LINE_CHARACTERS} characters or more; refused")
        return line


@contextmanager
def open_text(location: str, *, encoding: str = "utf-8-sig") -> Iterator[IO[str]]:
    """A text file, unpacked if it is gzip; DataError names the file when it cannot be read."""
    try:
        with storage.open_read(location) as handle:
            packed = handle.read(2) == b"\x1f\x8b"
            handle.seek(0)
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=handle)) if packed else handle
            yield _Lines(location, io.BufferedReader(cast(Any, stream)), encoding=encoding, newline="")
    except FileNotFoundError:
        raise DataError(f"{location}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{location}: not {encoding.removesuffix('-sig').upper()} text ({error.reason})") from error
    except StorageError:
        raise  # an OSError too, and says nothing of the file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{location}: cannot be read ({error})") from error


@contextmanager
def open_parquet(location: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; DataError names it when it cannot be read."""
    try:
        with storage.open_read(location) as handle:
            parquet = pq.ParquetFile(handle)
            storage.refuse_python_types(parquet.schema_arrow, location)
            yield parquet
    except FileNotFoundError:
        raise DataError(f"{location}: no such file") from None
    except StorageError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{location}: not a readable Parquet file ({' '.join(str(error).split())})") from error


def read_csv(
    location: str,
    required: Sequence[str] = (),
    *,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    comment: str | None = None,
    encoding: str = "utf-8-sig",
) -> Iterator[Record]:
    """The lines of a csv (or tsv, or either in gzip) as records, one by one.

    Args:
        required: columns that must be in the header.
        columns: the columns of a file without a header.
        delimiter: a comma; a tab where the name says .tsv.
        comment: lines that begin with this are passed over.
    """
    name = location.removesuffix(".gz")
    delimiter = delimiter or ("\t" if name.endswith((".tsv", ".tab")) else ",")
    with open_text(location, encoding=encoding) as lines:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        header = list(columns) if columns is not None else None
        try:
            for fields in reader:
                place = f"{location} line {reader.line_num}"
                if not fields or (comment is not None and fields[0].startswith(comment)):
                    continue
                if header is None:
                    header = [field.strip() for field in fields]
                    _check_header(location, header, required)
                elif len(fields) != len(header):
                    raise DataError(f"{place}: {len(fields)} fields, expected {len(header)} ({', '.join(header)})")
                elif "\0" in "".join(fields):
                    raise DataError(f"{place}: holds a NUL character, which no text does")
                else:
                    yield Record(dict(zip(header, fields, strict=True)), place)
        except csv.Error as error:
            raise DataError(f"{location} line {reader.line_num}: not valid csv ({error})") from error
    if header is None:
        raise DataError(f"{location}: is empty, expected a header with {', '.join(required) or 'column names'}")


def _check_header(location: str, header: Sequence[str], required: Sequence[str]) -> None:
    absent = [column for column in required if column not in header]
    if absent:
        raise DataError(f"{location}: no column {', '.join(map(repr, absent))}; there are {', '.join(header)}")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(f"{location}: column {twice[0]!r} stands twice in the header")
