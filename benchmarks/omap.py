"""OmAP on as many clips, classes and labels as AudioSet's evaluation has, against its definition and scikit-learn.

    python -m benchmarks.omap [--clips 20371] [--classes 527] [--naive-classes 8] [--quick] [--json FILE]

The labels are random with AudioSet's frequencies (2.5 a clip, few classes have most of them), the ontology is a random
tree of its size: neither file is needed. Times are of the processor, not of the clock: nothing here waits, and a busy
machine changes them little.
The naive side sorts each class anew for each of the levels, with floats summed along the ranking, on a part of the
classes; both sides must give the same numbers. scikit-learn does mAP alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from sklearn.metrics import average_precision_score

from benchmarks.rows import Row, finish, in_turns, parser_of
from raysem.metrics.average_precision import average_precision
from raysem.metrics.ontology_aware import inverse_level_means, tagging_precision
from raysem.metrics.ontology_distance import checked_distances, nearest_label_distance
from raysem.ontology.distances import OntologyDistances

# Shapes: N clips, K classes, L levels.

LONGEST_DISTANCE = 21


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints one line per comparison, and returns the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--clips", type=int, help="default: 20371")
    parser.add_argument("--classes", type=int, help="default: 527")
    parser.add_argument("--naive-classes", type=int, help="classes of the naive side (default: 8)")
    parser.add_argument("--repeats", type=int, help="turns of both sides (default: 3)")
    options = parser.parse_args(argv)
    clips, classes, naive, repeats = (300, 20, 2, 1) if options.quick else (20_371, 527, 8, 3)
    options.clips, options.classes = options.clips or clips, options.classes or classes
    options.naive_classes, options.repeats = options.naive_classes or naive, options.repeats or repeats
    return finish(measure(options), options)


def measure(options: argparse.Namespace) -> list[Row]:
    """One row for the whole, one against the naive definition, one against scikit-learn's mAP."""
    generator = np.random.default_rng(0)
    distances_KK = random_ontology(options.classes, generator)
    targets_NK = random_labels(options.clips, options.classes, generator)
    scores_NK = (generator.random(targets_NK.shape) + 0.3 * targets_NK * generator.random(targets_NK.shape)).astype(
        "f4"
    )
    part = np.linspace(0, options.classes - 1, options.naive_classes).astype(int)
    num_levels = int(distances_KK.max()) + 1
    found = tagging_precision(scores_NK, targets_NK, distances_KK)
    slow_LK = naive_levels(scores_NK, targets_NK, distances_KK, part)
    sklearn_K = average_precision_score(targets_NK, scores_NK, average=None)
    difference = float(np.abs(found.level_LK[:, part] - slow_LK).max())
    sklearn_difference = float(np.abs(found.plain_K - sklearn_K).max())
    if max(difference, sklearn_difference) > 1e-9:
        raise RuntimeError(f"the sides differ by {difference:.3g} and {sklearn_difference:.3g}; no fair comparison")
    taken = in_turns(
        {
            "whole": partial(core_seconds, partial(tagging_precision, scores_NK, targets_NK, distances_KK)),
            "naive": partial(core_seconds, partial(naive_levels, scores_NK, targets_NK, distances_KK, part)),
            "ours": partial(core_seconds, partial(average_precision, scores_NK, targets_NK)),
            "sklearn": partial(core_seconds, partial(average_precision_score, targets_NK, scores_NK, average=None)),
        },
        options.repeats,
    )
    naive_seconds = taken["naive"] * options.classes / len(part)
    size = f"{options.clips} clips x {options.classes} classes x {num_levels} levels"
    setting = f"{size}, one thread; ratio: the other side's time over ours"
    return [
        {
            "benchmark": "omap",
            "setting": setting,
            "name": "OmAP against its definition",
            "ratio": naive_seconds / taken["whole"],
            "core_seconds": taken["whole"],
            "naive_core_seconds": naive_seconds,  # of all classes, from the part
            "naive_classes": len(part),
            "largest_difference": difference,
        },
        {
            "benchmark": "omap",
            "setting": setting,
            "name": "mAP against scikit-learn",
            "ratio": taken["sklearn"] / taken["ours"],
            "core_seconds": taken["ours"],
            "sklearn_core_seconds": taken["sklearn"],
            "largest_difference": sklearn_difference,
        },
    ]


def core_seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def random_ontology(num_classes: int, generator: np.random.Generator) -> np.ndarray:
    """distance_KK of the nodes of a random tree; a third of them hang below one of the last few, as in AudioSet."""
    children: dict[str, list[str]] = {str(node): [] for node in range(num_classes)}
    for node in range(1, num_classes):
        oldest = max(0, node - 40) if generator.random() < 0.33 else 0
        children[str(generator.integers(oldest, node))].append(str(node))
    return np.minimum(OntologyDistances.of_graph(children).between(list(children)), LONGEST_DISTANCE)


def random_labels(num_clips: int, num_classes: int, generator: np.random.Generator) -> np.ndarray:
    """targets_NK, uint8: about 2.5 labels a clip, by frequencies that fall with the rank; every class has a clip."""
    share_K = 1 / (np.arange(num_classes) + 3)
    targets_NK = generator.random((num_clips, num_classes)) < np.minimum(0.5, 2.5 * share_K / share_K.sum())
    empty_N = np.flatnonzero(~targets_NK.any(axis=1))
    targets_NK[empty_N, generator.integers(num_classes, size=len(empty_N))] = True
    targets_NK[generator.integers(num_clips, size=num_classes), np.arange(num_classes)] = True
    return targets_NK.astype(np.uint8)


def naive_levels(
    scores_NK: np.ndarray, targets_NK: np.ndarray, distances_KK: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """level_LK of some classes, each level on its own: sort, weigh, sum along the ranking."""
    checked_KK = checked_distances(distances_KK, targets_NK.shape[1])
    distance_NK = nearest_label_distance(targets_NK == 1, checked_KK).astype(np.float64)
    inverse_L = inverse_level_means(checked_KK)
    levels_LK = np.empty((len(inverse_L), len(classes)))
    for column, index in enumerate(classes):
        for level, inverse in enumerate(inverse_L):
            order = np.argsort(-scores_NK[:, index], kind="stable")
            scores_N, has_N = scores_NK[order, index], targets_NK[order, index]
            distance_N = distance_NK[order, index]
            last = np.append(scores_N[1:] != scores_N[:-1], True)
            right = has_N.cumsum(dtype=np.float64)[last]
            wrong = ((1 - has_N) * distance_N * (distance_N > level) * inverse).cumsum()[last]
            precision = np.divide(right, right + wrong, out=np.zeros(len(right)), where=right > 0)
            levels_LK[level, column] = np.diff(right / right[-1], prepend=0) @ precision
    return levels_LK


if __name__ == "__main__":
    main(sys.argv[1:])
