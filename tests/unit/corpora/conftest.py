"""Tiny audio files and csv tables to write miniatures of published layouts with, and the shared real data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def write_audio() -> Callable[..., Path]:
    """Writes a tenth of a second of a tone to a path, in the format of its name."""

    def write(path: Path, hertz: float = 440.0, sample_rate: int = 8000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds_T = np.arange(sample_rate // 10) / sample_rate
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * seconds_T), sample_rate)
        return path

    return write


@pytest.fixture
def write_lines() -> Callable[..., Path]:
    """Writes lines of text to a path."""

    def write(path: Path, lines: Sequence[str]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data, RAYSEM_SHARED_DATA or ../shared/data beside the repository."""
    folder = Path(os.environ.get("RAYSEM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data is not at {folder}; set RAYSEM_SHARED_DATA")
    return folder
