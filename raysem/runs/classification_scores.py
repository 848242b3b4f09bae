"""The final numbers of a cross-validation: accuracy of every classifier over its folds, differences, confusions."""

# Shapes: A clips of a fold, K labels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raysem import storage
from raysem.curation.embeddings import read_embeddings
from raysem.errors import DataError
from raysem.evaluation.classification import (
    ClassificationSettings,
    classification_differences,
    classification_result,
)
from raysem.evaluation.scored_folds import ScoredFold
from raysem.runs import fold_labels

STAGE = "evaluate/scores"


def score(
    folder: storage.Location,
    labels: storage.Location,
    parts: Mapping[int, Sequence[storage.Location]],
    scores: Mapping[str, Mapping[int, storage.Location]],
    baseline: str,
    settings: ClassificationSettings,
    seed: int,
) -> dict[str, Any]:
    """Measure every classifier over its folds and write `scores.json`.

    Args:
        parts: by tested fold, the folders of its clips.
        scores: by classifier and fold, the folder of its probabilities.
    """
    known = fold_labels.read(labels)
    found = {name: scored_folds(known, parts, by_fold) for name, by_fold in scores.items()}
    content: dict[str, Any] = {"evaluation": {}, "differences": []}
    for name, folds in found.items():
        result = classification_result(folds, known, settings=settings, seed=seed)
        content["evaluation"][name] = {"classification": result.to_json()}
    if len(found) > 1:
        differences = classification_differences(found, [baseline], settings=settings, seed=seed)
        content["differences"] = [difference.to_json() for difference in differences]
    storage.write_json(storage.join(folder, "scores.json"), content)
    return {"headline": _headline(content)}


def scored_folds(
    labels: Sequence[str],
    parts: Mapping[int, Sequence[storage.Location]],
    scores: Mapping[int, storage.Location],
) -> dict[int, ScoredFold]:
    """One classifier's probabilities beside the true labels, by fold.

    Raises:
        DataError: no clip of a fold could be used.
    """
    place_of = {label: place for place, label in enumerate(labels)}
    found = {}
    for fold, where in scores.items():
        label_of = {clip_id: label for part in parts[fold] for clip_id, label in fold_labels.labelled(part)}
        ids, scores_AK = read_embeddings(where)
        clip_ids = ids.to_pylist()
        if not clip_ids:
            raise DataError(f"fold {fold}: none of its {len(label_of)} clips can be used")
        target_A = np.array([place_of[label_of[clip_id]] for clip_id in clip_ids])
        found[fold] = ScoredFold(clip_ids, target_A, scores_AK, len(label_of) - len(clip_ids))
    return found


def _headline(content: Mapping[str, Any]) -> list[str]:
    """A line a classifier for the console."""
    lines = []
    for name, parts in content["evaluation"].items():
        result = parts["classification"]
        spread = f" +- {100 * result['sd']:.2f}" if result["sd"] is not None else ""
        (low, high), folds = result["pooled"]["interval"], result["by_fold"]
        lines.append(
            f"{name}: accuracy {100 * result['mean']:.2f}{spread} % over {len(folds)} "
            f"fold{'s' if len(folds) > 1 else ''}; {result['pooled']['num_clips']} clips "
            f"[{100 * low:.1f}, {100 * high:.1f}]"
        )
    return lines
