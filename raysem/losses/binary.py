"""Binary cross-entropy over clips and classes of the global batch: the one-hot objective of audio tagging."""

# Shapes: B local clips, K classes.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raysem.losses.gather import mean_over_ranks

SMALLEST_PROBABILITY = 1e-7


def binary_cross_entropy(probabilities_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Mean of -y log p - (1 - y) log(1 - p) over all clips of all ranks and all classes, in fp32.

    p is clamped to [1e-7, 1 - 1e-7], as in the code of OBCE's authors: beyond that there is no gradient, so a certain
    mistake (a logit above 16) is not unlearned. `binary_cross_entropy_with_logits` has no such limit. Soft labels of
    mixup are targets like others.
    """
    return mean_over_ranks(probability_errors(probabilities_BK, targets_BK))


def binary_cross_entropy_with_logits(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """`binary_cross_entropy` of sigmoid(logits), without its limit at 1e-7."""
    return mean_over_ranks(logit_errors(logits_BK, targets_BK))


def probability_errors(probabilities_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """The cross-entropy of every clip and class, fp32 (B, K)."""
    check_alike(probabilities_BK, targets_BK, "probabilities")
    with torch.autocast(probabilities_BK.device.type, enabled=False):
        clamped_BK = probabilities_BK.float().clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        return F.binary_cross_entropy(clamped_BK, targets_BK.float(), reduction="none")


def logit_errors(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """The cross-entropy of every clip and class, fp32 (B, K)."""
    check_alike(logits_BK, targets_BK, "logits")
    with torch.autocast(logits_BK.device.type, enabled=False):
        return F.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK.float(), reduction="none")


def check_alike(values_BK: Tensor, targets_BK: Tensor, name: str) -> None:
    """ValueError unless both are (clips, classes) of one shape."""
    if values_BK.ndim != 2 or values_BK.shape != targets_BK.shape or not values_BK.numel():
        raise ValueError(
            f"{name} and targets must be (clips, classes) alike and not empty, got {tuple(values_BK.shape)} and "
            f"{tuple(targets_BK.shape)}"
        )
