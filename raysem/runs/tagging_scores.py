"""The final numbers of a tagging run: mAP and OmAP of every tagger on every set, their differences, their mistakes."""

# Shapes: N clips, K classes.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raysem import storage
from raysem.curation.embeddings import read_embeddings
from raysem.errors import DataError
from raysem.evaluation.tag_confusions import moved_confusions
from raysem.evaluation.tagging import TaggingSettings, tagging_differences, tagging_result
from raysem.metrics.omap_bounds import random_floor
from raysem.ontology.tag_classes import TagClasses
from raysem.runs.roles import clip_shards

STAGE = "evaluate/scores"
MOVED_CLASSES = 8


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """The clips of a set that every tagger could use, with the scores of each."""

    name: str
    clip_ids: list[str]
    targets_NK: np.ndarray
    scores: dict[str, np.ndarray]
    num_unscored: int

    @classmethod
    def read(
        cls,
        name: str,
        corpus: storage.Location,
        embeddings: Mapping[str, storage.Location],
        classes: TagClasses,
    ) -> ScoredSet:
        """The set from its part's folder and the folder of each tagger's scores.

        Raises:
            DataError: the taggers could use different clips, or a label is none of the classes.
        """
        table = pa.concat_tables([storage.read_table(file, ["clip_id", "labels"]) for file in clip_shards(corpus)])
        labels = dict(zip(table["clip_id"].to_pylist(), table["labels"].to_pylist(), strict=True))
        scores, clip_ids = dict[str, np.ndarray](), list[str]()
        for model, folder in embeddings.items():
            ids, scores_NK = read_embeddings(folder)
            if scores and ids.to_pylist() != clip_ids:
                raise DataError(f"evaluation set {name}: {model} could use other clips than {next(iter(scores))}")
            clip_ids, scores[model] = ids.to_pylist(), scores_NK
        targets_NK = classes.targets([labels[clip_id] or () for clip_id in clip_ids], where=f"evaluation set {name}")
        if not targets_NK.any():
            raise DataError(f"evaluation set {name}: no usable clip has a label")
        return cls(name, clip_ids, targets_NK, scores, len(labels) - len(clip_ids))


def score(
    folder: storage.Location,
    classes: storage.Location,
    corpora: Mapping[str, storage.Location],
    scores: Mapping[str, Mapping[str, storage.Location]],
    baseline: str,
    settings: TaggingSettings,
    seed: int,
) -> dict[str, Any]:
    """Measure every tagger on every set and write `scores.json`.

    Args:
        scores: by set, the folder of each tagger's scores.
    """
    known = TagClasses.read(classes)
    content: dict[str, Any] = {"evaluation": {}, "differences": [], "moved_confusions": []}
    for name, corpus in corpora.items():
        found = ScoredSet.read(name, corpus, scores[name], known)
        floor = random_floor(found.targets_NK, known.distance_KK, seed=seed, num_draws=settings.num_floor_draws)
        for model, scores_NK in found.scores.items():
            result = tagging_result(
                scores_NK,
                found.targets_NK,
                known.distance_KK,
                known.names,
                settings=settings,
                seed=seed,
                num_unscored=found.num_unscored,
                floor=floor,
            )
            content["evaluation"].setdefault(model, {"tagging": {}})["tagging"][name] = result.to_json()
        differences = tagging_differences(
            found.scores, found.targets_NK, known.distance_KK, [baseline], set_name=name, settings=settings, seed=seed
        )
        content["differences"] += [difference.to_json() for difference in differences]
        for model in found.scores:
            if model != baseline:
                moved = moved_confusions(
                    found.scores[baseline],
                    found.scores[model],
                    found.targets_NK,
                    known.distance_KK,
                    known.names,
                    count=MOVED_CLASSES,
                    set_name=name,
                    models=(baseline, model),
                    seed=seed,
                )
                content["moved_confusions"].append(moved.to_json())
    storage.write_json(storage.join(folder, "scores.json"), content)
    return {"headline": _headline(content)}


def _headline(content: Mapping[str, Any]) -> list[str]:
    """A line a tagger and set for the console."""
    lines = []
    for model, parts in content["evaluation"].items():
        for name, result in parts["tagging"].items():
            low, high = result["OmAP_interval"]
            lines.append(
                f"{name}, {model}: mAP {result['mAP']:.3f}, OmAP {result['OmAP']:.3f} [{low:.3f}, {high:.3f}] "
                f"(random scores: {result['random_floor']['OmAP']:.3f}; {result['num_clips']} clips)"
            )
    return lines
