"""CLAP: an audio encoder and a text encoder, each projected into one space, and the scale of their similarities."""

# Shapes: B clips or texts in the batch, T samples, W width of an encoder, D width of the shared space.

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from raysem.audio.logmel import LogMel, LogMelSettings
from raysem.config import Settings, plain
from raysem.models.cnn14 import MIN_FRAMES, NUM_BLOCKS
from raysem.models.projection import Projection
from raysem.models.protocol import by_length, checked_waveforms, exact_evaluation
from raysem.models.registry import AudioEncoderName, build_audio_encoder
from raysem.text.encoder import TextEncoder, TextEncoderSettings


class ClapSettings(Settings):
    """One CLAP model. The defaults are those of CLAP-2022, except for the text encoder."""

    audio_encoder: AudioEncoderName = "cnn14"
    audio_channels: tuple[PositiveInt, ...] | None = None
    """Channels of the six convolution blocks, instead of those of `audio_encoder`."""
    audio_weights: str | None = None
    """A PANNs Cnn14 `.pth` from which the audio encoder starts; its mel matrix and STFT come with it."""
    spec_augment: bool = False
    """Mask bands and spans of the log-mel spectrogram in training."""
    log_mel: LogMelSettings = LogMelSettings()
    crop_seconds: PositiveFloat = 5.0
    text: TextEncoderSettings = TextEncoderSettings()
    embedding_width: PositiveInt = 1024
    """D, the width of the space that audio and text share."""
    projection_dropout: float = Field(0.5, ge=0, lt=1)
    block_dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout after each convolution block."""
    embedding_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout before and after the audio encoder's last layer."""
    temperature: PositiveFloat = 0.07
    """Start of the learned temperature; the similarities are scaled by its inverse."""
    max_logit_scale: PositiveFloat = 100.0

    @model_validator(mode="after")
    def _check(self) -> ClapSettings:
        if self.audio_channels is not None and len(self.audio_channels) != NUM_BLOCKS:
            raise ValueError(f"audio_channels needs {NUM_BLOCKS} numbers, got {list(self.audio_channels)}")
        if self.audio_weights and (self.audio_encoder != "cnn14" or self.audio_channels):
            raise ValueError("audio_weights are those of a PANNs Cnn14: they need audio_encoder cnn14 and its channels")
        frames = self.log_mel.num_frames(self.crop_samples)
        if frames < MIN_FRAMES:
            raise ValueError(f"crop_seconds {self.crop_seconds:g} gives {frames} frames, needed are {MIN_FRAMES}")
        if self.log_mel.num_mels < MIN_FRAMES:
            raise ValueError(f"log_mel.num_mels is {self.log_mel.num_mels}, needed are {MIN_FRAMES}")
        return self

    @property
    def crop_samples(self) -> int:
        """Length of a crop at the model's sample rate."""
        return round(self.crop_seconds * self.log_mel.sample_rate)


class Clap(nn.Module):
    """Waveforms and texts into one space (Elizalde et al. 2022; equations in the class of each part).

    `encode_*` are for training, `embed_*` for curation and evaluation (see `AudioTextModel` for their promises).
    A new model draws its weights from torch's global generator. `raysem.models.start.build_clap` also seeds it and
    reads `settings.audio_weights`; this class never does.

    Args:
        text_encoder: a loaded encoder, instead of reading `settings.text` again.
    """

    def __init__(self, settings: ClapSettings, *, text_encoder: TextEncoder | None = None):
        super().__init__()
        self.settings = settings
        self.log_mel = LogMel(settings.log_mel)
        self.audio_encoder = build_audio_encoder(
            settings.audio_encoder,
            channels=settings.audio_channels,
            num_mels=settings.log_mel.num_mels,
            block_dropout=settings.block_dropout,
            embedding_dropout=settings.embedding_dropout,
            spec_augment=settings.spec_augment,
        )
        self.text_encoder = text_encoder if text_encoder is not None else TextEncoder(settings.text)
        width, dropout = settings.embedding_width, settings.projection_dropout
        self.audio_projection = Projection(self.audio_encoder.embedding_width, width, dropout=dropout)
        self.text_projection = Projection(self.text_encoder.width, width, dropout=dropout)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))
        self.clamp_logit_scale()

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        return self.settings.log_mel.sample_rate

    @property
    def crop_samples(self) -> int:
        """Length of a training crop."""
        return self.settings.crop_samples

    @property
    def embedding_width(self) -> int:
        """D, the width of the shared space."""
        return self.settings.embedding_width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    def encode_audio(self, waveform_BT: Tensor) -> Tensor:
        """Unit vectors audio_BD; the front end runs in float32 on the model's device."""
        logmel_BNF = self.log_mel(waveform_BT.to(self.device))
        audio_BD = self.audio_projection(self.audio_encoder(logmel_BNF))
        return F.normalize(audio_BD.float(), dim=-1)

    def encode_text(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors text_BD from `text_encoder.tokenize(texts)`."""
        return self.encode_text_features(self.text_encoder(tokens))

    def encode_text_features(self, text_BW: Tensor) -> Tensor:
        """Unit vectors text_BD from features of the text encoder: those of a frozen one can be kept."""
        return F.normalize(self.text_projection(text_BW.to(self.device)).float(), dim=-1)

    def scale(self) -> Tensor:
        """The factor of the similarities, at most `max_logit_scale`."""
        return self.logit_scale.clamp(max=self._max_log_scale).exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Bring the parameter back to its bound; to be called after each optimizer step.

        Without it a step beyond the bound would be the last: the gradient of a clamped value is 0.
        """
        self.logit_scale.clamp_(max=self._max_log_scale)

    @property
    def _max_log_scale(self) -> float:
        return math.log(self.settings.max_logit_scale)

    def embed_waveforms(self, waveforms_BT: np.ndarray) -> np.ndarray:
        """Unit vectors (B, D), float32, of mono waveforms at `sample_rate`."""
        waveform_BT = checked_waveforms(waveforms_BT)
        with exact_evaluation(self):
            return self.encode_audio(waveform_BT).cpu().numpy()

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Unit vectors (B, D), float32, of texts."""
        return self._by_text(texts, batch_size, project=True)

    def text_features(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """What the text encoder alone makes of texts, (B, W), float32; input of `encode_text_features`."""
        return self._by_text(texts, batch_size, project=False)

    def _by_text(self, texts: Sequence[str], batch_size: int, *, project: bool) -> np.ndarray:
        encode = self.encode_text if project else self.text_encoder
        width = self.embedding_width if project else self.text_encoder.width
        result_BD = np.empty((len(texts), width), dtype=np.float32)
        with exact_evaluation(self):
            for index_B in by_length(texts, batch_size):
                tokens = self.text_encoder.tokenize([texts[index] for index in index_B])
                result_BD[index_B] = encode(tokens).cpu().numpy()
        return result_BD

    def fingerprint(self) -> str:
        """SHA-256 over weights, settings and tokenizer; where the files were read from does not count."""
        settings = plain(self.settings)
        del settings["audio_weights"], settings["text"]["name"]
        parts = [json.dumps(settings, sort_keys=True), self.text_encoder.files_digest(), weights_digest(self)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """`state_digest` of all that a model holds."""
    return state_digest(model.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of a state dict, wherever it lies and in whatever layout."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()
