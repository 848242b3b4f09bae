"""The labels of a cross-validation: one for each clip, and in every fold's training clips each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.errors import DataError
from raysem.runs.roles import clip_shards

STAGE = "labels"
FILE = "labels.json"


def write(
    folder: storage.Location,
    parts: Mapping[int, Sequence[storage.Location]],
    tested: Sequence[int],
    wanted: Sequence[str],
) -> dict[str, Any]:
    """Check the clips of every fold and write the labels in the order of the outputs.

    Args:
        parts: by fold, the folders of its clips; those of training first.
        tested: the folds that are tested.
        wanted: the labels that the recipe names; none: all that there are, sorted.

    Raises:
        DataError: a clip without a label, with several, or with one that is not wanted; a label that has no clip in
            the training clips of a fold; fewer than two labels.
    """
    counts = {fold: dict[str, int]() for fold in parts}
    for fold, folders in parts.items():
        for where in folders:
            for clip_id, label in labelled(where):
                if wanted and label not in wanted:
                    raise DataError(f"{clip_id}: label {label!r} is none of the {len(wanted)} that `labels` names")
                counts[fold][label] = counts[fold].get(label, 0) + (where == folders[0])
    found = sorted({label for known in counts.values() for label in known})
    labels = list(wanted) or found
    if len(labels) < 2:
        raise DataError(f"corpora.clips: classification needs at least 2 labels, there are {labels}")
    for fold in tested:
        for label in labels:
            if not any(counts[other].get(label) for other in parts if other != fold):
                raise DataError(
                    f"folds: label {label!r} has no clip to train on when fold {fold} is tested (it is in "
                    f"{counts[fold].get(label, 0)} clips of that fold)"
                )
    storage.write_json(storage.join(folder, FILE), labels)
    return {"labels": len(labels), "clips": {str(fold): sum(known.values()) for fold, known in counts.items()}}


def read(folder: storage.Location) -> tuple[str, ...]:
    """The labels in the order of the outputs."""
    return tuple(storage.read_json(storage.join(folder, FILE)))


def labelled(part: storage.Location) -> list[tuple[str, str]]:
    """(clip_id, label) of every clip of a part.

    Raises:
        DataError: a clip without a label, or with several.
    """
    found = []
    for file in clip_shards(part):
        table = storage.read_table(file, ["clip_id", "labels"])
        for clip_id, labels in zip(table["clip_id"].to_pylist(), table["labels"].to_pylist(), strict=True):
            if len(labels or ()) != 1:
                raise DataError(f"{clip_id}: has {len(labels or ())} labels, classification needs one for each clip")
            found.append((clip_id, labels[0]))
    return found
