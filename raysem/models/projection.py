"""The projection of CLAP-2022: an encoder's embedding into the space that audio and text share."""

# Shapes: B rows, W width of the encoder, D width of the shared space.

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """`LayerNorm(e1 + Dropout(W2 gelu(e1)))` with `e1 = W1 h`; neither matrix has a bias.

    CLAP, Elizalde et al. 2022 (repository microsoft/CLAP, msclap/models/clap.py), whose names the parameters keep.
    """

    def __init__(self, in_width: int, out_width: int, *, dropout: float = 0.5):
        super().__init__()
        self.linear1 = nn.Linear(in_width, out_width, bias=False)
        self.linear2 = nn.Linear(out_width, out_width, bias=False)
        self.layer_norm = nn.LayerNorm(out_width)
        self.drop = nn.Dropout(dropout)

    def forward(self, embedding_BW: Tensor) -> Tensor:
        first_BD = self.linear1(embedding_BW)
        return self.layer_norm(first_BD + self.drop(self.linear2(F.gelu(first_BD))))
