"""The symmetric contrastive loss of CLAP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Shapes: B pairs in the (global) batch, D embedding width.


def symmetric_contrastive_loss(audio_BD: Tensor, text_BD: Tensor, logit_scale: Tensor) -> Tensor:
    """Cross-entropy over the batch's cosine similarities, averaged over both directions.

    CLAP (Elizalde et al. 2022), Eq. 1; SemanticAC, Eq. 2-3. Row i of each input belongs to the same clip. Two clips
    with one caption count as a mismatch here; `soft_label_loss` is the remedy.

    Args:
        audio_BD, text_BD: float, any scale; normalised here, in fp32.
        logit_scale: scalar factor (1 / temperature), already exponentiated and clamped.
    """
    similarity_BB = scaled_similarity(audio_BD, text_BD, logit_scale)
    target_B = torch.arange(len(similarity_BB), device=similarity_BB.device)
    return (F.cross_entropy(similarity_BB, target_B) + F.cross_entropy(similarity_BB.T, target_B)) / 2


def scaled_similarity(audio_BD: Tensor, text_BD: Tensor, logit_scale: Tensor) -> Tensor:
    """Cosine of every clip with every text times `logit_scale`, in fp32 also under autocast."""
    if audio_BD.ndim != 2 or audio_BD.shape != text_BD.shape:
        raise ValueError(f"embeddings must pair up, got audio {tuple(audio_BD.shape)} and text {tuple(text_BD.shape)}")
    with torch.autocast(audio_BD.device.type, enabled=False):
        audio_BD, text_BD = F.normalize(audio_BD.float(), dim=-1), F.normalize(text_BD.float(), dim=-1)
        return logit_scale.float() * (audio_BD @ text_BD.T)
