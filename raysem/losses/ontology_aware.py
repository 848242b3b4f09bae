"""OBCE: binary cross-entropy in which a class weighs more the farther it lies from the labels of its clip.

Liu et al., "Ontology-aware learning and evaluation for audio tagging", arXiv 2211.12195, as in the code of its authors
(haoheliu/ontology-aware-audio-tagging).
"""

# Shapes: B local clips, K classes, P labels of the clip that has most.

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from raysem.losses.binary import check_alike, logit_errors, probability_errors
from raysem.losses.gather import mean_over_ranks

Array = TypeVar("Array", np.ndarray, Tensor)


def ontology_aware_bce(
    probabilities_BK: Array, targets_BK: np.ndarray | Tensor, distances_KK: np.ndarray | Tensor, *, beta: float = 1.0
) -> Array:
    """OBCE, the mean of the weighted and the plain cross-entropy: (mean(w e) + mean(e)) / 2 over the global batch.

    e is the cross-entropy with p clamped to [1e-7, 1 - 1e-7] (see `binary_cross_entropy` for what that costs), w are
    `ontology_weights`. In fp32, also under autocast; gradients flow into the probabilities alone. The same value and,
    under DistributedDataParallel, the same gradients for any number of ranks.

    Args:
        probabilities_BK: after the sigmoid; numpy gives a numpy scalar, torch a torch scalar.
        targets_BK: 0..1, soft labels of mixup too.
        distances_KK: edges between the classes, as `Ontology.distances.between` gives them.
        beta: power of the distances; 1 in the paper.
    """
    probabilities, targets = torch.as_tensor(probabilities_BK), torch.as_tensor(targets_BK)
    if probabilities.numel() and not _within_unit(probabilities):
        raise ValueError("probabilities must lie in [0, 1]; logits go to ontology_aware_bce_with_logits")
    targets = targets.to(probabilities.device)
    loss = _weighted(probability_errors(probabilities, targets), targets, distances_KK, beta)
    return loss.detach().cpu().numpy() if isinstance(probabilities_BK, np.ndarray) else loss


def ontology_aware_bce_with_logits(
    logits_BK: Tensor, targets_BK: Tensor, distances_KK: np.ndarray | Tensor, *, beta: float = 1.0
) -> Tensor:
    """`ontology_aware_bce` of sigmoid(logits), without its limit at 1e-7: equal wherever that does not bind."""
    return _weighted(logit_errors(logits_BK, targets_BK), targets_BK, distances_KK, beta)


@torch.no_grad()
def ontology_weights(targets_BK: Tensor, distances_KK: np.ndarray | Tensor, *, beta: float = 1.0) -> Tensor:
    """The weight w of every clip and class, fp32 (B, K); their mean over the global batch is 1.

    v_ic = min over the labels t != c of clip i of y_it D[c, t]^beta, 0 where there is none; divided by the clip's
    largest; then 1 at the labels themselves; w = v / mean(v over the clips of all ranks and all classes). The paper
    first divides D by the longest distance, which cancels.

    - The mean is taken over the global batch (sum and count reduced over ranks): per rank, as published code would, the
      loss depends on the number of workers.
    - A clip without labels has weight 0 in all classes (our reading; 0 / 0 in the published form, and with it the
      loss of the whole batch): only the plain half of OBCE sees it.
    - Soft labels shrink distances: what lies near a label of 0.3 looks nearer than it is. Kept as published.
    """
    check_alike(targets_BK, targets_BK, "targets")
    num_classes = targets_BK.shape[1]
    with torch.autocast(targets_BK.device.type, enabled=False):
        targets_BK = targets_BK.float()
        power_KK = torch.as_tensor(distances_KK, device=targets_BK.device).float() ** beta
        if power_KK.shape != (num_classes, num_classes):
            raise ValueError(f"distances must be ({num_classes}, {num_classes}), got {tuple(power_KK.shape)}")
        nearest_BK = _nearest_other_label(targets_BK, power_KK)
        nearest_BK = nearest_BK / nearest_BK.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        relative_BK = torch.where(targets_BK > 0, 1.0, nearest_BK)
        return relative_BK / mean_over_ranks(relative_BK).clamp(min=torch.finfo(torch.float32).tiny)


def _weighted(error_BK: Tensor, targets_BK: Tensor, distances_KK: np.ndarray | Tensor, beta: float) -> Tensor:
    weight_BK = ontology_weights(targets_BK, distances_KK, beta=beta)
    with torch.autocast(error_BK.device.type, enabled=False):
        return mean_over_ranks((weight_BK + 1) * error_BK) / 2


def _nearest_other_label(targets_BK: Tensor, power_KK: Tensor) -> Tensor:
    """min over the clip's labels other than the class itself of label times distance (B, K); 0 where there is none."""
    most = int((targets_BK > 0).sum(dim=1).max())
    if not most:
        return torch.zeros_like(targets_BK)
    label_BP, class_BP = targets_BK.topk(most, dim=1)
    cost_BPK = label_BP[:, :, None] * power_KK[class_BP]
    cost_BPK.masked_fill_(label_BP[:, :, None] <= 0, torch.inf)
    cost_BPK.scatter_(2, class_BP[:, :, None], torch.inf)  # a label is not its own neighbour
    nearest_BK = cost_BPK.amin(dim=1)
    return torch.where(nearest_BK.isinf(), 0.0, nearest_BK)


def _within_unit(probabilities: Tensor) -> bool:
    """False for a number outside [0, 1]; NaN passes and makes the loss NaN, which the loop tells with its step."""
    low, high = probabilities.detach().aminmax()
    return not bool((low < 0) | (high > 1))
