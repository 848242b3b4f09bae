"""The final numbers of a cross-validation: accuracy of every classifier over its folds, differences, confusions."""

# Shapes: A clips of a fold, K labels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.curation.embeddings import read_embeddings
from raysem.errors import DataError
from raysem.evaluation.classification import (
    ClassificationSettings,
    classification_differences,
    classification_result,
)
from raysem.evaluation.scored_folds import ScoredFold, pooled_folds
from raysem.metrics.accuracy import top1_correct
from raysem.runs import fold_labels

STAGE = "evaluate/scores"
CORRECT_FILE = "correct_folds.parquet"  # `final_scores.read_clip_scores` reads every correct_<set>.parquet


def score(
    folder: storage.Location,
    labels: storage.Location,
    parts: Mapping[int, Sequence[storage.Location]],
    scores: Mapping[str, Mapping[int, Sequence[storage.Location]]],
    baseline: str,
    settings: ClassificationSettings,
    seed: int,
) -> dict[str, Any]:
    """Measure every classifier over its folds and write `scores.json`, and `correct_folds.parquet`.

    That table has `clip_id` and a column a classifier, right or wrong; the clips of all tested folds.

    Args:
        parts: by tested fold, the folders of its clips.
        scores: by classifier and fold, the folders of its probabilities.

    Raises:
        DataError: no clip of a fold could be used, or the classifiers could use different clips.
    """
    known = fold_labels.read(labels)
    found = {name: scored_folds(known, parts, by_fold) for name, by_fold in scores.items()}
    _check_same_clips(found)
    content: dict[str, Any] = {"evaluation": {}, "differences": []}
    for name, folds in found.items():
        result = classification_result(folds, known, settings=settings, seed=seed)
        content["evaluation"][name] = {"classification": result.to_json()}
    if len(found) > 1:
        differences = classification_differences(found, [baseline], settings=settings, seed=seed)
        content["differences"] = [difference.to_json() for difference in differences]
    storage.write_json(storage.join(folder, "scores.json"), content)
    storage.write_table(storage.join(folder, CORRECT_FILE), _correct(found))
    return {"headline": _headline(content)}


def scored_folds(
    labels: Sequence[str],
    parts: Mapping[int, Sequence[storage.Location]],
    scores: Mapping[int, Sequence[storage.Location]],
) -> dict[int, ScoredFold]:
    """One classifier's probabilities beside the true labels, by fold.

    Raises:
        DataError: no clip of a fold could be used.
    """
    place_of = {label: place for place, label in enumerate(labels)}
    found = {}
    for fold, where in scores.items():
        label_of = {clip_id: label for part in parts[fold] for clip_id, label in fold_labels.labelled(part)}
        read = [read_embeddings(folder) for folder in where]
        clip_ids = [clip_id for ids, _ in read for clip_id in ids.to_pylist()]
        if not clip_ids:
            raise DataError(f"fold {fold}: none of its {len(label_of)} clips can be used")
        scores_AK = np.concatenate([scores for ids, scores in read if len(ids)])
        target_A = np.array([place_of[label_of[clip_id]] for clip_id in clip_ids])
        found[fold] = ScoredFold(clip_ids, target_A, scores_AK, len(label_of) - len(clip_ids))
    return found


def _check_same_clips(found: Mapping[str, Mapping[int, ScoredFold]]) -> None:
    """DataError where two classifiers were scored on other clips of a fold."""
    first_name, first = next(iter(found.items()))
    for name, folds in found.items():
        for fold, one in folds.items():
            if set(one.clip_ids) != set(first[fold].clip_ids):
                raise DataError(f"fold {fold}: {name} could use other clips than {first_name}")


def _correct(found: Mapping[str, Mapping[int, ScoredFold]]) -> pa.Table:
    """1, 0, or 1 / m where m labels tie, for each clip, a row, and classifier, a column."""
    pooled = {name: pooled_folds(folds, name).sorted() for name, folds in found.items()}
    columns: dict[str, Any] = {"clip_id": next(iter(pooled.values())).clip_ids}
    return pa.table(columns | {name: top1_correct(one.scores_AK, one.target_A) for name, one in pooled.items()})


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
