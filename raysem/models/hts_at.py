"""HTS-AT, a Swin transformer over a folded spectrogram, as transformers has it within CLAP."""

# Shapes: B clips in the batch, N frames or columns of the map, F mel bins or rows of the map,
# W width of the embedding, K classes.

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from raysem.config import Settings
from raysem.models.encoder import EncodedAudio, SpectrogramNetwork, check_spectrogram

PATCH_SIZE = 4  # mel bins and frames of a patch, and from one to the next


class HtsAtSettings(Settings):
    """The numbers that tell one member of the family from another; the defaults are the published one on AudioSet."""

    num_mels: PositiveInt = 64
    image_size: PositiveInt = 256
    """Side of the square into which a spectrogram is folded; it holds `image_size`² / `num_mels` frames."""
    patch_width: PositiveInt = 96
    """Width of the first stage; each further stage doubles it."""
    depths: tuple[PositiveInt, ...] = Field((2, 2, 6, 2), min_length=1)
    """Layers of each stage."""
    num_heads: tuple[PositiveInt, ...] = (4, 8, 16, 32)
    """Heads of each stage."""
    window: PositiveInt = 8
    """Side of the windows within which tokens attend to each other."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Share of clips for which the last layer is skipped in training; the layers before it less, in even steps."""
    num_classes: PositiveInt | None = None
    """Outputs of the classifier; null leaves it out."""

    @model_validator(mode="after")
    def _check(self) -> HtsAtSettings:
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths and num_heads must be of one length, got {self.depths} and {self.num_heads}")
        if any(self.patch_width * 2**stage % heads for stage, heads in enumerate(self.num_heads)):
            raise ValueError(f"num_heads {self.num_heads} must divide the widths from {self.patch_width} on")
        if self.image_size % self.num_mels:
            raise ValueError(f"image_size {self.image_size} must be a multiple of num_mels {self.num_mels}")
        if self.image_size % (self._shrinkage * self.window) or self.last_side % self.folds:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of {self._shrinkage * self.window}, windows of "
                f"{self.window} in the last of {len(self.depths)} stages, and its {self.last_side} rows of {self.folds}"
            )
        return self

    @property
    def _shrinkage(self) -> int:
        return PATCH_SIZE * 2 ** (len(self.depths) - 1)

    @property
    def last_side(self) -> int:
        """Side of the square at the last stage."""
        return self.image_size // self._shrinkage

    @property
    def folds(self) -> int:
        """Spans of time that lie above each other in the square."""
        return self.image_size // self.num_mels

    @property
    def max_frames(self) -> int:
        """Frames of the longest spectrogram, and to which all are stretched."""
        return self.image_size * self.folds

    @property
    def embedding_width(self) -> int:
        """W: the width of the last stage."""
        return self.patch_width * 2 ** (len(self.depths) - 1)

    def config(self) -> Any:
        """The `transformers.ClapAudioConfig`."""
        from transformers import ClapAudioConfig

        return ClapAudioConfig(
            window_size=self.window,
            num_mel_bins=self.num_mels,
            spec_size=self.image_size,
            patch_size=PATCH_SIZE,
            patch_stride=[PATCH_SIZE, PATCH_SIZE],
            hidden_size=self.embedding_width,
            depths=list(self.depths),
            num_attention_heads=list(self.num_heads),
            num_hidden_layers=len(self.depths),
            patch_embeds_hidden_size=self.patch_width,
            drop_path_rate=self.drop_path,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )


class HtsAt(SpectrogramNetwork):
    """Log-mel spectrograms in dB to the mean of the last stage's tokens, and the tokens as a map.

    HTS-AT (Chen et al. 2022; repository RetroCirce/HTS-Audio-Transformer, model/htsat.py): `base` is a
    `transformers.ClapAudioModel` without fusion, `tscam_conv` the token-semantic classifier. A spectrogram is repeated
    while it fits twice, as the authors do for clips of other lengths, then stretched to `max_frames` and folded; the
    map is unfolded again, so that its columns run through time once: (B, 768, 2, 32) for the published numbers.
    transformers skips only the attention of a layer (`drop_path`), the authors the other half as well.
    """

    def __init__(self, settings: HtsAtSettings):
        from transformers import ClapAudioModel

        super().__init__()
        self.settings = settings
        self.base: Any = ClapAudioModel(settings.config())
        if settings.num_classes is not None:
            rows = settings.last_side // settings.folds
            self.tscam_conv = nn.Conv2d(
                settings.embedding_width, settings.num_classes, kernel_size=(rows, 3), padding=(0, 1)
            )
        self._start()

    @property
    def embedding_width(self) -> int:
        """W."""
        return self.settings.embedding_width

    def encode(self, spectrogram_BNF: Tensor) -> EncodedAudio:
        """The mean of the last stage's tokens, and the tokens as rows and columns."""
        settings = self.settings
        check_spectrogram(spectrogram_BNF, num_mels=settings.num_mels, max_frames=settings.max_frames)
        repeated_BNF = spectrogram_BNF.repeat(1, settings.max_frames // spectrogram_BNF.shape[1], 1)
        output = self.base(input_features=repeated_BNF.unsqueeze(1))
        return EncodedAudio(output.pooler_output, output.last_hidden_state)

    def image(self, map_BWFN: Tensor) -> Tensor:
        """The square of the last stage, (B, 768, 8, 8) for the published numbers: spans of time above each other.

        It is the norm of the last hidden state of `base`, value for value, which transformers does not return.
        SemanticAC (Xiao et al. 2023) runs its convolutions over it.
        """
        width, folds, side = self.embedding_width, self.settings.folds, self.settings.last_side
        expected = (width, side // folds, folds * side)
        if map_BWFN.ndim != 4 or map_BWFN.shape[1:] != expected:
            raise ValueError(f"expected a map of {expected} for each clip, got {tuple(map_BWFN.shape)}")
        return map_BWFN.unflatten(3, (folds, side)).transpose(2, 3).flatten(2, 3)

    def class_logits(self, encoded: EncodedAudio) -> Tensor:
        """AudioSet logits (B, K): the mean over time of those of each column."""
        return self.tscam_conv(encoded.map_BWFN).flatten(2).mean(dim=2)

    def _start(self) -> None:
        """As the authors: transformers would start near 0, where all clips look alike."""
        for name, parameter in self.base.named_parameters():
            if name.endswith("relative_position_bias_table"):
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                module.reset_parameters()
