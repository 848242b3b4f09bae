"""The texts of the classes as unit vectors: embedded once by a frozen text encoder, kept under their digest."""

# Shapes: K classes, D width of the text encoder.

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from raysem import config, storage
from raysem.errors import DataError
from raysem.text.encoder import TextEncoder, TextEncoderSettings
from raysem.text.hub import model_folder

log = logging.getLogger(__name__)

_MODEL_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".bin")


@dataclass(frozen=True)
class Neighbour:
    """A class and the cosine of its text with that of the class asked for."""

    name: str
    similarity: float


@dataclass(frozen=True)
class LabelTable:
    """One row per class, in the order of the names."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    text_KD: np.ndarray  # float32, unit rows
    digest: str  # over names, texts, pooling and the encoder's files

    @property
    def similarity(self) -> np.ndarray:
        """Cosines between all texts, float32."""
        return self.text_KD @ self.text_KD.T

    def neighbours(self, name: str, count: int) -> list[Neighbour]:
        """The `count` classes whose texts are nearest to that of class `name`, nearest first, then in their order.

        Raises:
            DataError: the table has no such class.
        """
        if name not in self.names:
            raise DataError(f"the table of {len(self.names)} classes has no class {name!r}")
        own = self.names.index(name)
        similarity_K = self.text_KD @ self.text_KD[own]
        order = [int(index) for index in np.argsort(-similarity_K, kind="stable") if index != own]
        return [Neighbour(self.names[index], float(similarity_K[index])) for index in order[:count]]


def label_table(
    names: Sequence[str],
    texts: Sequence[str],
    encoder: TextEncoderSettings | None = None,
    *,
    cache: storage.Location | None = None,
    key: str = "text.name",
) -> LabelTable:
    """The table of `texts`, one per class, read from `cache` where it was made before.

    Every text is encoded on its own: padding and company would change its last bits. Different texts, another encoder
    or another pooling have another digest, so a table in the cache is never out of date.

    Args:
        encoder: never trained here, whatever its setting says.
        cache: folder, local or remote; None: nothing is kept.
        key: dotted key of the encoder's name, for messages.
    """
    names, texts = tuple(names), tuple(texts)
    if len(names) != len(texts) or not names:
        raise ValueError(f"expected one text per class and one class at least, got {len(names)} and {len(texts)}")
    if len(set(names)) < len(names):
        raise DataError(f"class {next(name for name in names if names.count(name) > 1)!r} is named twice")
    settings = (encoder or TextEncoderSettings()).model_copy(update={"trained": False})
    with model_folder(settings.name, key=key) as folder:
        about = {"pooling": settings.pooling, "max_tokens": settings.max_tokens, "model": _files_digest(folder)}
        digest = config.digest({"names": names, "texts": texts, **about}, length=24)
        file = storage.join(cache, f"{digest}.parquet") if cache is not None else None
        if file is not None and storage.exists(file):
            return LabelTable(names, texts, _read(file, names), digest)
        text_KD = _encode(texts, TextEncoder(settings, location=str(folder), key=key))
    table = LabelTable(names, texts, text_KD, digest)
    if file is not None:
        _keep(file, table)
    return table


def _files_digest(folder: Path) -> str:
    """Over the names and contents of a model's files, without running it."""
    sha = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in _MODEL_SUFFIXES:
            sha.update(f"{file.name} {storage.digest_of(str(file))}\n".encode())
    return sha.hexdigest()


@torch.no_grad()
def _encode(texts: Sequence[str], encoder: TextEncoder) -> np.ndarray:
    encoder.eval()
    rows, num_full = [], 0
    for text in texts:
        tokens = encoder.tokenize([text])
        num_full += int(tokens["attention_mask"].sum()) == encoder.settings.max_tokens
        rows.append(encoder(tokens)[0].float())
    if num_full:
        log.warning(
            "%d of %d class texts fill max_tokens (%d) and may be cut",
            num_full,
            len(texts),
            encoder.settings.max_tokens,
        )
    return F.normalize(torch.stack(rows), dim=1).cpu().numpy()


def _read(file: storage.Location, names: tuple[str, ...]) -> np.ndarray:
    table = storage.read_table(file, ["name", "embedding"])
    if tuple(table["name"].to_pylist()) != names:
        raise DataError(f"{file}: holds other classes than its name says; delete it")
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(names), -1)


def _keep(file: storage.Location, table: LabelTable) -> None:
    width = table.text_KD.shape[1]
    columns = {
        "name": pa.array(table.names),
        "text": pa.array(table.texts),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(table.text_KD.ravel(), pa.float32()), width),
    }
    try:
        storage.write_table(file, pa.table(columns))
    except OSError as error:  # a full or read-only disk costs the time of the next call, not this one
        log.warning("the table of class texts cannot be kept: %s", error)
