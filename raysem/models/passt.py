"""PaSST: a vision transformer over patches of a spectrogram, with separate positions in time and frequency."""

# Shapes: B clips in the batch, N frames or columns of patches, F mel bins or rows of patches, L tokens, H heads,
# W width of the tokens and of the embedding, K classes.

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from raysem.config import Settings
from raysem.models.encoder import EncodedAudio, SpectrogramNetwork, check_spectrogram

MLP_RATIO = 4
NORM_EPSILON = 1e-6  # of all layer norms but the classifier's


class PasstSettings(Settings):
    """The numbers that tell one member of the family from another; the defaults are PaSST-S on clips of 10 s."""

    width: PositiveInt = 768
    depth: PositiveInt = 12
    num_heads: PositiveInt = 12
    patch_size: PositiveInt = 16
    stride: PositiveInt = 10
    """Mel bins and frames from one patch to the next."""
    num_mels: PositiveInt = 128
    num_frames: PositiveInt = 998
    """Length of the spectrograms for which there are positions, in whole strides."""
    num_classes: PositiveInt | None = None
    """Outputs of the classifier; null leaves it out."""
    patchout_time: NonNegativeInt = 40
    """Columns of patches left out of each batch in training."""
    patchout_frequency: NonNegativeInt = 4
    """Rows of patches left out of each batch in training."""

    @model_validator(mode="after")
    def _check(self) -> PasstSettings:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        if self.patch_size > self.num_mels:
            raise ValueError(f"patch_size {self.patch_size} is more than num_mels {self.num_mels}")
        if self.patchout_frequency >= self.num_rows or self.patchout_time >= self.num_columns:
            raise ValueError(
                f"patchout_frequency {self.patchout_frequency} and patchout_time {self.patchout_time} leave nothing of "
                f"{self.num_rows} x {self.num_columns} patches"
            )
        return self

    @property
    def num_rows(self) -> int:
        """Rows of patches."""
        return (self.num_mels - self.patch_size) // self.stride + 1

    @property
    def num_columns(self) -> int:
        """Columns of patches for which there are positions."""
        return self.num_frames // self.stride

    @property
    def max_frames(self) -> int:
        """Frames of the longest spectrogram: with one more it would have one more column."""
        return self.num_columns * self.stride + self.patch_size - 1


class Passt(SpectrogramNetwork):
    """Normalised log-mel spectrograms to the mean of the two class tokens, and the map of all patch tokens.

    PaSST (Koutini et al. 2022; repository kkoutini/PaSST, models/passt.py). The names of parameters are those of the
    published checkpoints; the second head that they carry for the distillation token (`head_dist`) takes part in no
    result and is not here. In training, with draws from torch's global generator: structured patchout, the same rows
    and columns for all clips of a batch, and for clips shorter than the positions a random start among those.
    Published code cuts clips that are too long; here they are a ValueError.
    """

    def __init__(self, settings: PasstSettings):
        super().__init__()
        self.settings = settings
        width = settings.width
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.dist_token = nn.Parameter(torch.empty(1, 1, width))
        self.new_pos_embed = nn.Parameter(torch.empty(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.empty(1, width, settings.num_rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.empty(1, width, 1, settings.num_columns))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, settings.patch_size, settings.stride)})
        self.blocks = nn.Sequential(*(Block(width, settings.num_heads) for _ in range(settings.depth)))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        if settings.num_classes is not None:
            self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, settings.num_classes))
        self._start()

    @property
    def embedding_width(self) -> int:
        """W."""
        return self.settings.width

    def encode(self, spectrogram_BNF: Tensor) -> EncodedAudio:
        """The mean of the class tokens, and the patch tokens as rows and columns; in training those that are left."""
        settings = self.settings
        check_spectrogram(
            spectrogram_BNF,
            num_mels=settings.num_mels,
            min_frames=settings.patch_size,
            max_frames=settings.max_frames,
        )
        patches_BWFN = self.patch_embed["proj"](spectrogram_BNF.transpose(1, 2).unsqueeze(1))
        patches_BWFN = self._patchout(self._with_positions(patches_BWFN))
        batch, width, rows, columns = patches_BWFN.shape
        class_12W = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        tokens_BLW = torch.cat([class_12W.expand(batch, -1, -1), patches_BWFN.flatten(2).transpose(1, 2)], dim=1)
        tokens_BLW = self.norm(self.blocks(tokens_BLW))
        map_BWFN = tokens_BLW[:, 2:].transpose(1, 2).reshape(batch, width, rows, columns)
        return EncodedAudio((tokens_BLW[:, 0] + tokens_BLW[:, 1]) / 2, map_BWFN)

    def class_logits(self, encoded: EncodedAudio) -> Tensor:
        """AudioSet logits (B, K)."""
        return self.head(encoded.embedding_BW)

    def _with_positions(self, patches_BWFN: Tensor) -> Tensor:
        columns = patches_BWFN.shape[3]
        spare = self.settings.num_columns - columns
        first = int(torch.randint(spare + 1, ())) if self.training and spare else 0
        return patches_BWFN + self.freq_new_pos_embed + self.time_new_pos_embed[..., first : first + columns]

    def _patchout(self, patches_BWFN: Tensor) -> Tensor:
        """In training, as few rows and columns as the settings say; they keep their order."""
        if not self.training:
            return patches_BWFN
        for axis, dropped in ((3, self.settings.patchout_time), (2, self.settings.patchout_frequency)):
            size = patches_BWFN.shape[axis]
            if dropped >= size:
                raise ValueError(f"patchout of {dropped} leaves nothing of {size} patches: longer clips, or less of it")
            if dropped:
                kept = torch.randperm(size)[: size - dropped].sort().values
                patches_BWFN = patches_BWFN.index_select(axis, kept.to(patches_BWFN.device))
        return patches_BWFN

    def _start(self) -> None:
        tokens = (self.cls_token, self.dist_token, self.new_pos_embed, self.freq_new_pos_embed, self.time_new_pos_embed)
        for parameter in tokens:
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


class Attention(nn.Module):
    """Self-attention of several heads over all tokens."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens_BLW: Tensor) -> Tensor:
        batch, length, width = tokens_BLW.shape
        qkv = self.qkv(tokens_BLW).reshape(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """Two layers with GELU between them, for each token."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens_BLW: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens_BLW)))


class Block(nn.Module):
    """One layer of the transformer, normalised before each half."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width)

    def forward(self, tokens_BLW: Tensor) -> Tensor:
        tokens_BLW = tokens_BLW + self.attn(self.norm1(tokens_BLW))
        return tokens_BLW + self.mlp(self.norm2(tokens_BLW))
