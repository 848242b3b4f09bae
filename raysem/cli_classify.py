"""`raysem classify ...`: which of a list of labels a classifier hears in audio files."""

from __future__ import annotations

from typing import Annotated

import typer

from raysem import storage
from raysem.cli_files import print_answers
from raysem.errors import UserError
from raysem.remote import NOTHING_THERE


def classify(
    model: Annotated[str, typer.Argument(help="folder of a classifier, or output folder of a `train_semanticac` run")],
    files: Annotated[list[str], typer.Argument(help="audio files of any format, local or s3://")],
    labels: Annotated[
        str | None,
        typer.Option(help='any labels, "dog, cat, siren", or @FILE with one a line (default: those of training)'),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help='another prompt than in training, "a clip of {label}"; several are averaged'),
    ] = None,
    name: Annotated[str | None, typer.Option("--model", help="which classifier of a run that has several")] = None,
    fold: Annotated[
        int | None, typer.Option(min=1, help="of a run, the model that was tested on this fold (default: the first)")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many labels")] = 5,
    crops: Annotated[
        int, typer.Option(min=1, help="evenly placed crops of a longer clip, averaged; 1: only its middle is heard")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="for programs; one object a line")] = False,
) -> None:
    """The labels of highest probability; the probabilities of all labels add up to 1.

    One of the labels given is taken to be right: add labels for what else there may be. A label with a comma goes into
    a file. A file that cannot be used is named with the reason, the others go on, and the exit status is 1.
    """
    from raysem.config import build
    from raysem.runs.clip_classes import ClassSettings, FileClassifier
    from raysem.runs.found_classifier import find_classifier

    content = {
        "labels": () if labels is None else read_labels(labels),
        "templates": tuple(template or ()),
        "num_labels": top,
        "num_crops": crops,
    }
    settings = build(ClassSettings, content, "classify")
    location = find_classifier(model, name, fold)
    print_answers(FileClassifier(location, settings).classify(files), len(files), as_json=as_json)


def read_labels(given: str) -> tuple[str, ...]:
    """The labels of `--labels`: between commas, or the lines of a file, local or remote, that are not empty.

    Raises:
        UserError: there are fewer than two, or the file cannot be read.
    """
    if given.startswith("@"):
        file = given[1:]
        try:
            lines = storage.read_bytes(file).decode("utf-8-sig").splitlines() if file else []
        except NOTHING_THERE:
            raise UserError(f"--labels {given}: no such file") from None
        except UnicodeDecodeError:
            raise UserError(f"--labels {given}: not a text in UTF-8") from None
        found, where = [line.strip() for line in lines if line.strip()], f"--labels {given}"
    else:
        found, where = [label.strip() for label in given.split(",")] if given.strip() else [], "--labels"
    if len(found) < 2:
        said = f"holds only {found[0]!r}, which would have probability 1" if found else "holds no label"
        raise UserError(f"{where}: {said}; give at least two")
    return tuple(found)
