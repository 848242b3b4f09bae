"""AST, the audio spectrogram transformer, as transformers has it."""

# Shapes: B clips in the batch, N frames or columns of patches, F mel bins or rows of patches, L tokens,
# W width of the tokens and of the embedding, K classes.

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from raysem.config import Settings
from raysem.models.encoder import EncodedAudio, SpectrogramNetwork, check_spectrogram

NORM_EPSILON = 1e-12  # as the published configuration has it


class AstSettings(Settings):
    """The numbers that tell one member of the family from another; the defaults are the published one on AudioSet."""

    width: PositiveInt = 768
    depth: PositiveInt = 12
    num_heads: PositiveInt = 12
    mlp_width: PositiveInt = 3072
    patch_size: PositiveInt = 16
    frequency_stride: PositiveInt = 10
    """Mel bins from one patch to the next."""
    time_stride: PositiveInt = 10
    """Frames from one patch to the next."""
    num_mels: PositiveInt = 128
    num_frames: PositiveInt = 1024
    """Length of every spectrogram."""
    num_classes: PositiveInt | None = None
    """Outputs of the classifier; null leaves it out."""

    @model_validator(mode="after")
    def _check(self) -> AstSettings:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        if self.patch_size > min(self.num_mels, self.num_frames):
            raise ValueError(f"patch_size {self.patch_size} is more than num_mels or num_frames")
        return self

    @property
    def num_rows(self) -> int:
        """Rows of patches."""
        return (self.num_mels - self.patch_size) // self.frequency_stride + 1

    @property
    def num_columns(self) -> int:
        """Columns of patches."""
        return (self.num_frames - self.patch_size) // self.time_stride + 1

    def config(self) -> Any:
        """The `transformers.ASTConfig`."""
        from transformers import ASTConfig

        return ASTConfig(
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.num_heads,
            intermediate_size=self.mlp_width,
            layer_norm_eps=NORM_EPSILON,
            patch_size=self.patch_size,
            frequency_stride=self.frequency_stride,
            time_stride=self.time_stride,
            num_mel_bins=self.num_mels,
            max_length=self.num_frames,
        )


class Ast(SpectrogramNetwork):
    """Normalised filter banks of a fixed length to the mean of the two class tokens, and the map of all patch tokens.

    AST (Gong et al. 2021): `base` is a `transformers.ASTModel`, `head` the classifier of `ASTForAudioClassification`.
    A new one starts with small random class tokens and positions, as the authors' own code without ImageNet's weights;
    transformers would start them at 0.
    """

    def __init__(self, settings: AstSettings):
        from transformers import ASTModel

        super().__init__()
        self.settings = settings
        self.base: Any = ASTModel(settings.config())
        embeddings = self.base.embeddings
        for parameter in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings):
            nn.init.trunc_normal_(parameter, std=0.02)
        if settings.num_classes is not None:
            norm = nn.LayerNorm(settings.width, eps=NORM_EPSILON)
            self.head = nn.Sequential(norm, nn.Linear(settings.width, settings.num_classes))

    @property
    def embedding_width(self) -> int:
        """W."""
        return self.settings.width

    def encode(self, spectrogram_BNF: Tensor) -> EncodedAudio:
        """The mean of the class tokens, and the patch tokens as rows and columns."""
        settings = self.settings
        frames = settings.num_frames
        check_spectrogram(spectrogram_BNF, num_mels=settings.num_mels, min_frames=frames, max_frames=frames)
        output = self.base(spectrogram_BNF)
        patches_BWL = output.last_hidden_state[:, 2:].transpose(1, 2)
        return EncodedAudio(output.pooler_output, patches_BWL.unflatten(2, (settings.num_rows, settings.num_columns)))

    def class_logits(self, encoded: EncodedAudio) -> Tensor:
        """AudioSet logits (B, K)."""
        return self.head(encoded.embedding_BW)
