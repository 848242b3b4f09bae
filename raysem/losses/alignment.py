"""SPA: the audio of a clip is pulled towards the texts of its labels, in a space that both share.

Liu and Ren, "Semantic proximity alignment", arXiv 2309.16265: L = BCE + OBCE + L_SPA, L_SPA being a cosine alignment of
audio features with the features of the labels' descriptions under a frozen text encoder. The paper's exact L_SPA and
how it combines several labels are not known to us; both forms here are our reading of it.
"""

# Shapes: B local clips, K classes, D width of the shared space.

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from raysem.losses.gather import mean_over_ranks

AlignmentForm = Literal["label_mean", "per_label"]


def alignment_loss(
    audio_BD: Tensor, targets_BK: Tensor, label_texts_KD: Tensor, *, form: AlignmentForm = "label_mean"
) -> Tensor:
    """L_SPA: mean of 1 - cosine between a clip and its labels, over the clips of all ranks that have a label.

    With u_k the unit text vector of class k and y the labels, `label_mean` (our reading) compares the clip with the
    direction of its labels' weighted mean, 1 - cos(f, sum_k y_k u_k): it can reach 0. `per_label` takes the weighted
    mean of 1 - cos(f, u_k), which is 1 - ||ubar|| cos(f, ubar): the same direction, a floor above 0, and a smaller
    pull on clips whose labels disagree. Soft labels of mixup weigh as they are; the sum of a clip's labels does not
    matter. A clip without labels is in neither sum nor count; a batch of such clips has the loss 0.

    Args:
        audio_BD, label_texts_KD: float, any scale; normalised here, in fp32, also under autocast.
        targets_BK: 0..1.
    """
    if form not in get_args(AlignmentForm):
        raise ValueError(f"form must be one of {', '.join(get_args(AlignmentForm))}, got {form!r}")
    num_clips, width = audio_BD.shape
    if targets_BK.ndim != 2 or label_texts_KD.shape != (targets_BK.shape[1], width) or len(targets_BK) != num_clips:
        raise ValueError(
            f"audio (B, D), targets (B, K) and label texts (K, D) must fit, got {tuple(audio_BD.shape)}, "
            f"{tuple(targets_BK.shape)} and {tuple(label_texts_KD.shape)}"
        )
    with torch.autocast(audio_BD.device.type, enabled=False):
        audio_BD, texts_KD = F.normalize(audio_BD.float(), dim=1), F.normalize(label_texts_KD.float(), dim=1)
        mass_B = targets_BK.float().sum(dim=1)
        labelled_B = mass_B > 0
        text_BD = targets_BK.float() @ texts_KD / torch.where(labelled_B, mass_B, 1.0)[:, None]
        if form == "label_mean":
            text_BD = F.normalize(text_BD, dim=1)
        distance_B = torch.where(labelled_B, 1 - (audio_BD * text_BD).sum(dim=1), 0.0)
        return mean_over_ranks(distance_B, labelled_B.sum())
