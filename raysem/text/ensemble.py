"""Several prompts of one class as one vector."""

# Shapes: K classes, P prompts per class, C width of the vectors.

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def ensemble_mean(text_KPC: Tensor) -> Tensor:
    """text_KC: the mean of a class's unit vectors, so that each prompt has the same say, however long its vector.

    As CLIP does for its ensembles of prompts (Radford et al. 2021, section 3.1.4), before it normalises again: that
    is left to the caller. The mean is shorter than 1 where prompts disagree; it is 0 where they cancel out.

    Args:
        text_KPC: any scale. Rows of `label_prompts` encoded one after the other are text_KPC after
            `.unflatten(0, (K, P))`.
    """
    if text_KPC.ndim != 3 or not text_KPC.shape[1]:
        raise ValueError(f"expected (classes, prompts, width) with one prompt at least, got {tuple(text_KPC.shape)}")
    return F.normalize(text_KPC, dim=-1).mean(1)
