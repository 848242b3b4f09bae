"""Audio encoders: waveforms in, an embedding and a map of tokens out, whatever the architecture."""

# Shapes: B clips in the batch, T samples, N frames or columns of the map, F mel bins or rows of the map,
# W width of the embedding, K classes.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class EncodedAudio:
    """What an encoder makes of a batch of clips."""

    embedding_BW: Tensor
    """One vector per clip."""
    map_BWFN: Tensor
    """The features before pooling: rows of frequency, low ones first, columns of time. Where an encoder drops rows and
    columns in training, those that are left."""


@runtime_checkable
class AudioEncoder(Protocol):
    """Waveforms to embeddings.

    Promises: one row per waveform in the same order; in evaluation mode a row does not depend on its batch beyond
    rounding, and nothing is drawn; the front end is float32 under autocast too; anything else than mono waveforms
    (B, T) of a length the encoder can take is a ValueError.
    """

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        ...

    @property
    def crop_samples(self) -> int:
        """Length of a waveform as the encoder was trained; shorter ones are fine."""
        ...

    @property
    def embedding_width(self) -> int:
        """W."""
        ...

    def __call__(self, waveform_BT: Tensor) -> EncodedAudio:
        """The encoded clips."""
        ...


class SpectrogramNetwork(nn.Module):
    """The part of an encoder that learns: spectrograms to embeddings and, where it has a classifier, to classes."""

    @property
    def embedding_width(self) -> int:
        """W, the width of the embedding and of the map."""
        raise NotImplementedError

    def encode(self, spectrogram_BNF: Tensor) -> EncodedAudio:
        """The encoded clips."""
        raise NotImplementedError

    def image(self, map_BWFN: Tensor) -> Tensor:
        """The map laid out for convolutions: the same vectors, side by side as they are within the network.

        The map itself, unless the network folds time into a square.
        """
        return map_BWFN

    def class_logits(self, encoded: EncodedAudio) -> Tensor:
        """Logits (B, K) of the published classifier; the network must have been made with `num_classes`."""
        raise NotImplementedError


class WaveformEncoder(nn.Module):
    """An `AudioEncoder`: the front end that a network was published with, and the network.

    `spectrogram` and `network.encode` are the two halves of a call, for what has to be done in between (SpecAugment).

    Args:
        front_end: waveform_BT to spectrogram_BNF; its `settings` have a `sample_rate`.
    """

    def __init__(self, front_end: nn.Module, network: SpectrogramNetwork, *, crop_seconds: float):
        super().__init__()
        self.front_end = front_end
        self.network: SpectrogramNetwork = network
        self._crop_seconds = crop_seconds

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        settings: Any = self.front_end.settings
        return settings.sample_rate

    @property
    def crop_samples(self) -> int:
        """Length of a waveform as the encoder was trained."""
        return round(self._crop_seconds * self.sample_rate)

    @property
    def embedding_width(self) -> int:
        """W."""
        return self.network.embedding_width

    def forward(self, waveform_BT: Tensor) -> EncodedAudio:
        return self.network.encode(self.spectrogram(waveform_BT))

    def spectrogram(self, waveform_BT: Tensor) -> Tensor:
        """spectrogram_BNF, float32, on the encoder's device."""
        return self.front_end(waveform_BT.to(next(self.network.parameters()).device))

    def class_logits(self, encoded: EncodedAudio) -> Tensor:
        """Logits (B, K) of the published classifier, where the network has it."""
        return self.network.class_logits(encoded)


def check_spectrogram(
    spectrogram_BNF: Tensor, *, num_mels: int, min_frames: int = 1, max_frames: int | None = None
) -> None:
    """ValueError unless a batch of spectrograms has `num_mels` bins and a number of frames within the bounds."""
    shape, longest = tuple(spectrogram_BNF.shape), max_frames or float("inf")
    if len(shape) != 3 or shape[2] != num_mels or not min_frames <= shape[1] <= longest:
        bounds = f"{min_frames} to {max_frames}" if max_frames else f"at least {min_frames}"
        raise ValueError(f"expected spectrograms (clips, {bounds} frames, {num_mels} mels), got {shape}")
