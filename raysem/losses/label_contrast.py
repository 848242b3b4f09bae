"""The contrastive loss between clips and the texts of their classes."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from raysem.losses.contrastive import scaled_similarity, symmetric_contrastive_loss

# Shapes: B clips in the (global) batch, C width of the shared space.

LabelContrastForm = Literal["multi_positive", "diagonal"]


def label_contrastive_loss(
    audio_BC: Tensor,
    text_BC: Tensor,
    class_B: Tensor,
    logit_scale: Tensor,
    *,
    form: LabelContrastForm = "multi_positive",
) -> Tensor:
    """Cross-entropy over the cosines of the batch's clips and their classes' texts, averaged over both directions.

    SemanticAC (Xiao et al. 2023), Eq. 2-3. Forms:
    - `diagonal`, as printed: the target of row i is row i alone. The trap: two clips of one class are negatives of
      each other, and 16 clips of 10 classes always repeat one, so that the batch contradicts itself.
    - `multi_positive` [INFER]: the target of a row is uniform over the rows of its class. It is the default, since its
      targets hold whatever the texts are. Its lowest value is their entropy, the mean over rows of the logarithm of
      the count of the row's class in the batch: 0 only where no class repeats.

    Where no class repeats, the two are equal. They are equal as well, with the same gradient, where the clips of a
    class have one text vector: its rows share their logits, and the targets of `diagonal` add up to the uniform ones.
    They part where those texts differ, by templates drawn per clip or by dropout in the text tower.

    Args:
        audio_BC, text_BC: float, any scale; normalised here, in fp32. Rows of the global batch, gathered by the caller
            with `gather_with_gradient`; row i of both is one clip, and the text is that of its class.
        class_B: integers; rows with the same one are of one class.
        logit_scale: scalar factor (1 / temperature), already exponentiated and clamped.
    """
    if form not in get_args(LabelContrastForm):
        raise ValueError(f"form must be multi_positive or diagonal, got {form!r}")
    if class_B.shape != audio_BC.shape[:1] or class_B.is_floating_point():
        raise ValueError(
            f"expected one integer class per clip, got {class_B.dtype} {tuple(class_B.shape)} "
            f"for audio {tuple(audio_BC.shape)}; gather the classes over the same global batch"
        )
    if form == "diagonal":
        return symmetric_contrastive_loss(audio_BC, text_BC, logit_scale)
    similarity_BB = scaled_similarity(audio_BC, text_BC, logit_scale)
    same_BB = (class_B[:, None] == class_B[None, :]).float()
    target_BB = same_BB / same_BB.sum(dim=1, keepdim=True)
    return (F.cross_entropy(similarity_BB, target_BB) + F.cross_entropy(similarity_BB.T, target_BB)) / 2
