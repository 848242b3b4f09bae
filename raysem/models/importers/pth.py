"""Reading a `.pth`, `.pt` or `.ckpt` file of others: only tensors, never code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np
import torch
from torch import Tensor

from raysem import storage
from raysem.errors import ConfigError, DataError

# PANNs keeps its sampler's index arrays beside the weights: plain NumPy arrays may be read, by their old names too.
_ARRAY_TYPES: list = [
    np.ndarray,
    np.dtype,
    type(np.dtype(np.int64)),
    type(np.dtype(np.int32)),
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
]


# What torch's reader raises for code, for other formats and for files that are cut short or not pickles at all.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AssertionError,
    TypeError,
    AttributeError,
    MemoryError,
)


def read_state_dict(location: str, *, key: str, entry: str = "model") -> dict[str, Tensor]:
    """The tensors of a `.pth` file: the entry of this name if there is one, else the whole content.

    Read with `weights_only=True`. `key` is the dotted key of the setting that names the file.
    """
    try:
        with storage.open_read(location) as handle:
            refuse_compressed(handle, location)
        with storage.open_read(location) as handle, torch.serialization.safe_globals(_ARRAY_TYPES):
            content = torch.load(handle, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"{key}: no file {location}") from None
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DataError(f"{location}: cannot be read with weights_only=True ({reason})") from error
    state = content.get(entry, content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise DataError(f"{location}: expected names with tensors, alone or under {entry!r}")
    return dict(state)


def refuse_compressed(handle: IO[bytes], location: str) -> None:
    """DataError for a torch file with packed members: torch writes none, and a megabyte of them may hold gigabytes."""
    if not zipfile.is_zipfile(handle):
        return
    handle.seek(0)
    try:
        members = zipfile.ZipFile(handle).infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise DataError(f"{location}: cannot be read with weights_only=True ({error})") from error
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise DataError(f"{location}: {packed[0]} in it is compressed, which torch does not write; refused")
