"""Accuracy by class and what is taken for what, as every result over single labels lists them."""

# Shapes: A clips, K classes.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysem.metrics.accuracy import Confusion, confusion_matrix, most_confused, per_class_accuracy


@dataclass(frozen=True, eq=False)
class ClassConfusions:
    """Counts (K true, K called) with the most confused pairs, most frequent first."""

    labels: tuple[str, ...]
    counts_KK: np.ndarray  # clips; ties share theirs, so a count need not be whole
    most_confused: list[Confusion]

    @classmethod
    def of(cls, scores_AK: np.ndarray, target_A: np.ndarray, labels: Sequence[str], *, count: int) -> ClassConfusions:
        """From scores, with the `count` most confused pairs."""
        counts_KK = confusion_matrix(scores_AK, target_A)
        return cls(tuple(labels), counts_KK, most_confused(counts_KK, labels, count=count))

    def to_json(self) -> dict[str, Any]:
        """`per_class`, `confusion` and `most_confused`; a class without clips has accuracy None."""
        accuracy_K, clips_K = per_class_accuracy(self.counts_KK), self.counts_KK.sum(axis=1)
        return {
            "per_class": {
                label: {"accuracy": float(accuracy) if clips else None, "num_clips": round(clips)}
                for label, accuracy, clips in zip(self.labels, accuracy_K, clips_K, strict=True)
            },
            "confusion": {
                "labels": list(self.labels),
                "counts": [[_count(n) for n in row] for row in self.counts_KK],
            },
            "most_confused": [
                {"label": c.label, "predicted": c.predicted, "num_clips": _count(c.num_clips), "share": c.share}
                for c in self.most_confused
            ],
        }


def _count(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
