"""A digest of the files at a corpus's root: another one as soon as a file comes, goes, or is of another size.

Listing costs one stat a file: seconds for a million files on a local disk, minutes on a network. Tables that raysem
built or packed name their few files, which spares it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

log = logging.getLogger(__name__)

TABLE_SUFFIXES = frozenset([".csv", ".json", ".gz", ".tsv", ".txt"])
HASHED_FILE_BYTES = 16 * 2**20
HASHED_FILES = 1000
"""So many files named as tables count by their bytes; more are no tables but sidecars, and count by their size."""
MANY_FILES = 100_000
ADVICE = "of clips packed by `raysem corpus pack` only the manifest is read"
GONE = -1

ListedFile = tuple[str, int, str]
"""Path relative to the root, size in bytes (GONE: a link to nothing), location."""


def digest_below(root: str) -> str:
    """16 hex digits of every file at a local root: relative path and size, and the bytes of small tables."""
    if os.path.isfile(root):
        return _digest([(".", os.path.getsize(root), root)])
    started = time.monotonic()
    files = list(_below(root, "", set()))
    seconds = time.monotonic() - started
    if len(files) >= MANY_FILES:
        log.info("%s: listed %d files in %.0f s, to see whether one has changed; %s", root, len(files), seconds, ADVICE)
    return _digest(files)


def digest_of_files(root: str, by_content: Sequence[str], by_size: Sequence[str]) -> str:
    """16 hex digits of some local files: path relative to the root and size of all, and the bytes of `by_content`."""
    sha = hashlib.sha256()
    for location in (*by_content, *by_size):
        sha.update(f"{os.path.relpath(location, root)}\0{_size(location)}\0".encode())
    for location in by_content:
        _add_content(sha, location)
    return sha.hexdigest()[:16]


def _digest(files: Iterable[ListedFile]) -> str:
    sha, num_hashed = hashlib.sha256(), 0
    for relative, size, location in files:
        sha.update(f"{relative}\0{size}\0".encode("utf-8", "surrogateescape"))
        is_table = posixpath.splitext(relative if relative != "." else location)[1] in TABLE_SUFFIXES
        if is_table and 0 <= size <= HASHED_FILE_BYTES and num_hashed < HASHED_FILES:
            num_hashed += 1
            _add_content(sha, location)
    return sha.hexdigest()[:16]


def _add_content(sha: hashlib._Hash, location: str) -> None:
    with open(location, "rb") as handle:
        sha.update(hashlib.file_digest(handle, "sha256").digest())


def _below(folder: str, prefix: str, above: set[str]) -> Iterator[ListedFile]:
    """The files of a folder by name, then those of its folders; links are followed, as the readers do."""
    real = os.path.realpath(folder)
    if real in above:  # a symbolic link back up
        return
    folders = []
    with suppress(PermissionError), os.scandir(folder) as entries:  # such as lost+found of a mounted disk
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                folders.append(entry)
            else:
                yield f"{prefix}{entry.name}", _size(entry), entry.path
    for entry in folders:
        yield from _below(entry.path, f"{prefix}{entry.name}/", above | {real})


def _size(file: str | os.DirEntry[str]) -> int:
    try:
        return os.stat(file).st_size if isinstance(file, str) else file.stat().st_size
    except FileNotFoundError:
        return GONE
