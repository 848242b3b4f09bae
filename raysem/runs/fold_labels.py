"""The labels of a cross-validation: one for each clip, and in every fold's training clips each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.errors import DataError
from raysem.runs.roles import clip_shards

STAGE = "labels"
CHECK_STAGE = "labels/tested"
FILE = "labels.json"
COUNTS_FILE = "counts.json"


def write(
    folder: storage.Location, parts: Mapping[int, Sequence[storage.Location]], wanted: Sequence[str]
) -> dict[str, Any]:
    """Check the clips of every fold and write the labels in the order of the outputs.

    Args:
        parts: by fold, the folders of its clips; those of training first.
        wanted: the labels that the recipe names; none: all that there are, sorted.

    Raises:
        DataError: a clip without a label, with several, with one that is not wanted, or in two folds; a wanted label
            that no clip has; fewer than two labels.
    """
    counts = {fold: Counter[str]() for fold in parts}
    found, fold_of = set[str](), dict[str, int]()
    for fold, folders in parts.items():
        for where in folders:
            for clip_id, label in labelled(where):
                if wanted and label not in wanted:
                    raise DataError(f"{clip_id}: label {label!r} is none of the {len(wanted)} that `labels` names")
                if clip_id in fold_of:
                    raise DataError(f"{clip_id}: stands in fold {fold_of[clip_id]} and again in fold {fold}")
                fold_of[clip_id] = fold
                found.add(label)
                counts[fold][label] += where == folders[0]
    labels = list(wanted) or sorted(found)
    if len(labels) < 2:
        raise DataError(f"corpora.clips: classification needs at least 2 labels, there are {labels}")
    for label in labels:
        if label not in found:
            raise DataError(f"labels: no clip has the label {label!r}")
    storage.write_json(storage.join(folder, COUNTS_FILE), {str(fold): dict(known) for fold, known in counts.items()})
    storage.write_json(storage.join(folder, FILE), labels)
    return {"labels": len(labels), "clips": {str(fold): known.total() for fold, known in counts.items()}}


def check_tested(folder: storage.Location, tested: Sequence[int]) -> dict[str, Any]:
    """Check that each label has clips to train on whichever of the `tested` folds is left out.

    Apart from `write`, so that to test one more fold leaves the classifiers of the others as they are.

    Args:
        folder: what `write` left.

    Raises:
        DataError: a label that has no clip in the training clips of a tested fold.
    """
    counts = storage.read_json(storage.join(folder, COUNTS_FILE))
    for fold in tested:
        for label in read(folder):
            has = [int(other) for other, known in counts.items() if known.get(label)]
            if not set(has) - {fold}:
                where = f"are in fold {fold} alone" if has else "are all held out"
                raise DataError(
                    f"folds: label {label!r} has no clip to train on when fold {fold} is tested (its clips {where})"
                )
    return {"tested": list(tested)}


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
