"""How often each clip is drawn so that rare classes are seen as often as common ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from raysem.errors import DataError

# Shapes: N clips, M pairs of a clip and one of its labels.

COUNT_OFFSET = 0.01


def balanced_weights(labels: Sequence[Sequence[str]], *, count_offset: float = COUNT_OFFSET) -> np.ndarray:
    """For each clip the sum over its labels of 1000 / (clips with that label + count_offset), as weights_N, float64.

    PSLA's src/gen_weight_file.py, and the same file of AST. PaSST (audioset/dataset.py) and EfficientAT
    (datasets/audioset.py) do it with an offset of 100, which draws the rarest classes less often, and draw 100,000
    clips an epoch, without replacement. It does not make the classes equal: a common label that comes with rare ones
    is still drawn more often than they are.

    A clip without labels, of which AudioSet has none, gets the smallest weight of the others (our choice): that none of
    the classes is heard is nothing rare. A label written twice counts once.

    Raises:
        DataError: no clip has a label.
    """
    if count_offset < 0:
        raise ValueError(f"count_offset must not be negative, got {count_offset}")
    distinct = [list(dict.fromkeys(names)) for names in labels]
    counts = Counter(name for names in distinct for name in names)
    if not counts:
        raise DataError(f"balanced sampling: none of the {len(labels)} clips has a label")
    weight_of = {name: 1000.0 / (count + count_offset) for name, count in counts.items()}
    clip_M = np.repeat(np.arange(len(distinct)), [len(names) for names in distinct])
    weight_M = np.array([weight_of[name] for names in distinct for name in names])
    weights_N = np.bincount(clip_M, weight_M, minlength=len(distinct))
    weights_N[weights_N == 0] = weights_N[weights_N > 0].min()
    return weights_N
