"""A pickle that leaves a file behind when somebody opens it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """The test fails when the trap was sprung, whatever else it found."""
    mark = tmp_path / "sprung"
    yield Trap(mark)
    assert not mark.exists(), "the pickle was opened"


@pytest.fixture
def bomb(trap: Trap) -> bytes:
    return pickle.dumps(trap)
