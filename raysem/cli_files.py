"""What a command prints about each of its audio files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from raysem.errors import UserError

if TYPE_CHECKING:
    from raysem.runs.scored_files import FileAnswer


def print_answers(answers: Iterable[FileAnswer], num_files: int, *, as_json: bool) -> None:
    """Print the answer of each file as soon as it is known, for a person or as one JSON object a line.

    Raises:
        UserError: no file can be used.
        Exit: some cannot; status 1.
    """
    unusable = []
    for answer in answers:
        file, error = answer.scored.file, answer.scored.error
        if error is not None:
            unusable.append(f"{file}: {error}")
        if as_json:
            print(json.dumps(answer.to_json(), ensure_ascii=False), flush=True)
        elif error is None:
            print(answer.describe(), flush=True)
        elif num_files > 1:  # the reason of a single file is the message below
            print(f"raysem: {unusable[-1]}", file=sys.stderr)
    if len(unusable) == num_files:
        raise UserError(unusable[0] if num_files == 1 else f"none of the {num_files} files can be used")
    if unusable:
        raise typer.Exit(1)
