"""Tar shards in the layout of WebDataset: members of one name, side by side, are one clip.

Layout: .tar (or .tar.gz) files anywhere below the root (or the root is one). `<key>.flac` (any audio extension) with,
beside it, `<key>.json` (captions under text, caption or captions; labels under tag, tags, label or labels), `<key>.txt`
(a caption) and `<key>.cls` (a label). The key is the member's path without its LAST extension, so that names with dots
hold together; WebDataset's own rule cuts at the first dot.
Nothing but these is opened: no member is unpickled, unpacked to disk or decoded by its suffix. Links and members that
point outside are refused. Tars are read as a stream, one clip in memory at a time.
Licence and folds: the data set's own.
"""

from __future__ import annotations

import gzip
import json
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any, cast

from raysem import storage
from raysem.config import Settings
from raysem.corpora.rows import ClipRow
from raysem.corpora.sources import AUDIO_EXTENSIONS, Names, inside, walk_files
from raysem.errors import DataError, StorageError
from raysem.tables import RejectOutcome

NEEDS = ".tar files with members <key>.flac (or another audio format) and <key>.json, <key>.txt or <key>.cls"
SUFFIXES = (".tar", ".tar.gz", ".tgz")
SIDECARS = (".json", ".txt", ".cls")
MAX_SIDECAR_BYTES = 8 * 2**20
"""Of all texts of one clip: they are held until its last member."""
MAX_HEADER_BYTES = 2**20
"""Between two members: tarfile reads long names and pax headers whole, whatever size they claim."""


class WebDatasetOptions(Settings):
    """What to take from the members."""

    source: str = "webdataset"
    """Name of the corpus: the column `source`, and the beginning of every clip_id."""
    caption_key: Names = ("text", "caption", "captions")
    """Keys of the json whose texts (or lists of texts) are captions."""
    label_key: Names = ("tag", "tags", "label", "labels")
    """Keys of the json whose texts (or lists of texts) are labels."""
    max_member_mib: float = 512
    """A longer audio member is a reject, `too_long`."""


@dataclass
class _Sample:
    key: str
    place: str
    audio: bytes | None = None
    audio_name: str = ""
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    problem: tuple[RejectOutcome, str] | None = None
    sidecar_bytes: int = 0


def read_webdataset(root: str, options: WebDatasetOptions | None = None) -> Iterator[ClipRow]:
    """The clips of all tars, in the order of their names; clip_id is `<source>/<tar>/<key>`."""
    options = options or WebDatasetOptions()
    location = storage.absolute(root)
    if location.endswith(SUFFIXES):
        folder, _, name = location.rpartition("/")
        names = [name]
    else:
        folder = location
        names = [name for name in walk_files(location) if name.endswith(SUFFIXES)]
    if not names:
        raise DataError(f"{location}: no tar file below it; there must be {NEEDS}")
    for name in sorted(names):
        stem = name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar")
        for sample in _samples(storage.join(folder, name), options):
            yield _clip(sample, stem, options)


class _Watched:
    """A stream that remembers its last pieces. `tarfile` ends without an error at a header that is cut or damaged.

    `end` is how far it may be read: a gzip of a megabyte may hold a header of gigabytes.
    """

    def __init__(self, stream: IO[bytes], location: str):
        self._stream, self._location = stream, location
        self.end = MAX_HEADER_BYTES
        self._count = 0
        self._pieces = (b"", b"")

    def read(self, size: int) -> bytes:
        if self._count > self.end:
            raise DataError(f"{self._location}: a header has more than {MAX_HEADER_BYTES} bytes; refused")
        piece = self._stream.read(size)
        self._count += len(piece)
        self._pieces = (self._pieces[1], piece)
        return piece

    def has_zero_block(self, offset: int) -> bool:
        """Whether 512 zero bytes, the end mark, stand at `offset`, among what was read last."""
        recent = b"".join(self._pieces)
        begin = offset - (self._count - len(recent))
        return begin >= 0 and recent[begin : begin + tarfile.BLOCKSIZE] == bytes(tarfile.BLOCKSIZE)


def _unpacked(handle: IO[bytes]) -> IO[bytes]:
    packed = handle.read(2) == b"\x1f\x8b"
    handle.seek(0)
    return cast(IO[bytes], gzip.GzipFile(fileobj=handle)) if packed else handle


def _clip(sample: _Sample, tar: str, options: WebDatasetOptions) -> ClipRow:
    if sample.audio is None and sample.problem is None:
        raise DataError(
            f"{sample.place}: no audio member beside it; the members of a clip must stand together in the tar"
        )
    if sample.audio == b"":
        sample.problem = ("empty", "the audio member has no bytes")
    return ClipRow(
        clip_id=f"{options.source}/{tar}/{sample.key}",
        source=options.source,
        place=sample.place,
        path=sample.audio_name or None,
        content=sample.audio,
        captions=tuple(dict.fromkeys(sample.captions)),
        labels=tuple(dict.fromkeys(sample.labels)),
        problem=sample.problem,
    )


def _samples(location: str, options: WebDatasetOptions) -> Iterator[_Sample]:
    current: _Sample | None = None
    last = "its beginning"
    try:
        with ExitStack() as stack:
            stream = _Watched(_unpacked(stack.enter_context(storage.open_read(location))), location)
            archive = stack.enter_context(tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|"))
            for member in archive:
                last = member.name
                stream.end = archive.offset + MAX_HEADER_BYTES
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep a kilobyte for each
                place = f"{location} member {member.name}"
                if member.isdir() or posixpath.basename(member.name).startswith("."):  # macOS adds ._<name> to tars
                    continue
                if not member.isfile():
                    raise DataError(f"{place}: is a link or a device; refused")
                key, extension = posixpath.splitext(inside("the tar", member.name, place))
                extension = extension.lower()
                if extension not in AUDIO_EXTENSIONS and extension not in SIDECARS:
                    continue
                if current is None or current.key != key:
                    if current is not None:
                        yield current
                    current = _Sample(key, place)
                _add(current, archive, member, extension, place, options)
            if not stream.has_zero_block(archive.offset):
                raise tarfile.ReadError("there is no end mark")
    except FileNotFoundError:
        raise DataError(f"{location}: no such file") from None
    except StorageError:
        raise  # an OSError too, and says nothing of the tar
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{location}: not a whole tar file, it breaks off after {last} ({error})") from error
    if current is not None:
        yield current


def _add(
    sample: _Sample,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    extension: str,
    place: str,
    options: WebDatasetOptions,
) -> None:
    if extension in AUDIO_EXTENSIONS:
        if sample.audio is not None or sample.problem is not None:
            raise DataError(f"{place}: a second audio member of {sample.key!r}, after {sample.audio_name}")
        sample.audio_name, sample.place = posixpath.basename(member.name), place
        if member.size > options.max_member_mib * 2**20:
            size = member.size / 2**20
            sample.problem = ("too_long", f"member of {size:.0f} MiB, the limit is {options.max_member_mib:g}")
            return
        sample.audio = _content(archive, member)
        return
    sample.sidecar_bytes += member.size
    if sample.sidecar_bytes > MAX_SIDECAR_BYTES:
        raise DataError(f"{place}: {sample.sidecar_bytes} bytes of texts, expected small ones")
    try:
        text = _content(archive, member).decode("utf-8-sig").strip()
        information = json.loads(text) if extension == ".json" else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid {'JSON' if extension == '.json' else 'UTF-8 text'} ({error})") from error
    if extension == ".txt":
        sample.captions.extend([text] if text else [])
    elif extension == ".cls":
        sample.labels.extend([text] if text else [])
    elif not isinstance(information, dict):
        raise DataError(f"{place}: expected one JSON object, got {type(information).__name__}")
    else:
        sample.captions.extend(text for key in options.caption_key for text in _texts(information.get(key)))
        sample.labels.extend(text for key in options.label_key for text in _texts(information.get(key)))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read() if stream is not None else b""


def _texts(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else [value]
    return [str(part).strip() for part in parts if isinstance(part, str | int) and str(part).strip()]
