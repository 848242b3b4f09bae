"""Puts `listening_tables` on the path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from listening_tables import Inputs, write_inputs


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """24 tones and two models' scores of them."""
    return write_inputs(tmp_path)
