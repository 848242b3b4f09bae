"""A clips table that a person points at: a Parquet file, a folder of them, or what `raysem corpus build` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raysem import config, storage
from raysem.corpora.shards import MANIFEST, clips_folder, read_manifest
from raysem.errors import DataError
from raysem.listening.rows import find_rows, table_files

READ_COLUMNS = ("clip_id", "audio", "start_seconds", "duration_seconds")
"""What decoding reads of a clip."""


@dataclass(frozen=True)
class GivenTable:
    """The shards of a clips table that hold a clip."""

    shards: Sequence[storage.Location]
    digest: str
    """Another one when a shard changes (with a manifest), or is of another name or size (without); its place does not
    count."""


def open_table(location: storage.Location) -> GivenTable:
    """The table at `location`, with the columns that are read and an id of its own for each clip.

    Raises:
        DataError: there is none or no clip in it, a column is missing, or a clip_id is empty or stands twice.
    """
    location = storage.absolute(location)
    if not location.endswith(".parquet"):
        location = clips_folder(location)
        if storage.exists(storage.join(location, MANIFEST)):  # its rows were checked when it was built
            manifest = read_manifest(location)
            return GivenTable(manifest.files, config.digest([(shard.file, shard.sha256) for shard in manifest.shards]))
        if not storage.list_files(location, ".parquet"):
            raise DataError(f"{location}: no clips table there; `raysem corpus build` makes one of any audio")
    files = table_files(location)
    for file in files:
        with storage.open_parquet(file, READ_COLUMNS):
            pass
    if not find_rows(files):
        raise DataError(f"{location}: holds no clip")
    files = [file for file in files if storage.count_rows(file)]
    return GivenTable(files, config.digest([(storage.name_of(file), storage.size_bytes(file)) for file in files]))
