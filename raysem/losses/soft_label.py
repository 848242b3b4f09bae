"""Soft targets from a frozen teacher, and the divergence of the student from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raysem.losses.contrastive import scaled_similarity

# Shapes: B pairs in the (global) batch, D embedding width of the teacher or of the student.

SoftLabelForm = Literal["raw", "row_normalised", "softmax"]


@dataclass(frozen=True)
class SoftTargets:
    """What the student's rows should be, for each direction.

    `row_mass_*` is the mean row sum of the paper's raw target, whatever the form in use: it says how far the raw
    target is from a distribution. `true_pair_share` is what the pair itself keeps of its row, mean of both directions.
    """

    audio_to_text_BB: Tensor
    text_to_audio_BB: Tensor
    row_mass_audio: Tensor
    row_mass_text: Tensor
    true_pair_share: Tensor


@torch.no_grad()
def soft_label_targets(
    teacher_audio_BD: Tensor,
    teacher_text_BD: Tensor,
    *,
    weight: float,
    form: SoftLabelForm = "raw",
    softmax_temperature: float = 0.1,
) -> SoftTargets:
    """Targets (1 - weight) I + weight S, where S holds the teacher's similarities within one modality.

    Wang et al. 2023, Eq. 3-4: audio-to-text rows use clip-clip cosines, text-to-audio rows caption-caption ones.
    Forms: `raw` takes the cosines as they are (the paper), so a row sums to 1 + weight * sum of the other cosines, not
    to 1; `row_normalised` divides each raw row by its sum; `softmax` uses softmax(S / softmax_temperature) as S.
    Negative cosines are clamped at 0 in the first two: their logarithm would make the loss NaN (the paper's torch 1.10
    dropped those terms in effect).

    Args:
        teacher_audio_BD, teacher_text_BD: float, any scale; of the same global batch, in the same order.
        weight: alpha of the paper, in [0, 1]; 0 gives the identity, that is the hard labels.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight}")
    if form not in ("raw", "row_normalised", "softmax"):
        raise ValueError(f"form must be raw, row_normalised or softmax, got {form!r}")
    if softmax_temperature <= 0:
        raise ValueError(f"softmax_temperature must be positive, got {softmax_temperature}")
    if teacher_audio_BD.ndim != 2 or len(teacher_audio_BD) != len(teacher_text_BD):
        raise ValueError(
            f"teacher embeddings must pair up, got audio {tuple(teacher_audio_BD.shape)} "
            f"and text {tuple(teacher_text_BD.shape)}"
        )
    targets, masses, shares = [], [], []
    with torch.autocast(teacher_audio_BD.device.type, enabled=False):
        for teacher_BD in (teacher_audio_BD, teacher_text_BD):
            unit_BD = F.normalize(teacher_BD.float(), dim=-1)
            similarity_BB = unit_BD @ unit_BD.T
            similarity_BB.fill_diagonal_(1.0)  # exactly, so that weight changes the pair's own entry not at all
            hard_BB = torch.eye(len(similarity_BB), device=similarity_BB.device)
            raw_BB = (1 - weight) * hard_BB + weight * similarity_BB.clamp(min=0)
            if form == "raw":
                target_BB = raw_BB
            elif form == "row_normalised":
                target_BB = raw_BB / raw_BB.sum(dim=1, keepdim=True)
            else:
                target_BB = (1 - weight) * hard_BB + weight * torch.softmax(similarity_BB / softmax_temperature, dim=1)
            targets.append(target_BB)
            masses.append(raw_BB.sum(dim=1).mean())
            shares.append((target_BB.diagonal() / target_BB.sum(dim=1)).mean())
    return SoftTargets(targets[0], targets[1], masses[0], masses[1], (shares[0] + shares[1]) / 2)


def soft_label_loss(audio_BD: Tensor, text_BD: Tensor, logit_scale: Tensor, targets: SoftTargets) -> Tensor:
    """KL(target || student) over the rows of the batch's similarities, averaged over both directions.

    Wang et al. 2023, Eq. 5 (`batchmean`: summed over a row, averaged over rows). With raw targets this is no divergence
    of distributions: it can be large where the student is right, since rows have more mass than 1. No gradient flows
    into the targets.

    Args:
        audio_BD, text_BD: the student's embeddings, float, any scale; normalised here, in fp32.
        logit_scale: the student's scalar factor, already exponentiated and clamped.
    """
    similarity_BB = scaled_similarity(audio_BD, text_BD, logit_scale)
    if targets.audio_to_text_BB.shape != similarity_BB.shape:
        raise ValueError(
            f"targets are {tuple(targets.audio_to_text_BB.shape)} for a batch of {len(similarity_BB)} pairs; "
            "gather the teacher's embeddings over the same global batch"
        )
    audio_to_text = F.kl_div(similarity_BB.log_softmax(dim=1), targets.audio_to_text_BB, reduction="batchmean")
    text_to_audio = F.kl_div(similarity_BB.T.log_softmax(dim=1), targets.text_to_audio_BB, reduction="batchmean")
    return (audio_to_text + text_to_audio) / 2
