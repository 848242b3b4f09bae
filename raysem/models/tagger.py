"""A tagger: an audio encoder, a classifier of several labels, and a projection towards the texts of the classes."""

# Shapes: B clips in the batch, T samples, W width of the embedding, K classes, D width of the text space,
# N columns and F rows of the map.

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from raysem.audio.spec_mask import mask_spectrogram
from raysem.config import plain
from raysem.models.clap import weights_digest
from raysem.models.encoder import EncodedAudio, WaveformEncoder
from raysem.models.encoder_settings import NUM_CLASSES_KEY
from raysem.models.encoder_start import copy_weights, published_encoder, with_front_end_of
from raysem.models.projection import Projection
from raysem.models.protocol import checked_waveforms, exact_evaluation
from raysem.models.registry import assembled
from raysem.models.tagger_settings import TaggerSettings
from raysem.models.tagger_start import check_classes

__all__ = ["Tagged", "Tagger", "TaggerSettings", "build_tagger"]


@dataclass(frozen=True)
class Tagged:
    """What a tagger makes of a batch of clips."""

    logits_BK: Tensor
    """float32."""
    audio_BD: Tensor | None
    """The clips in the space of the class texts, float32, of any length; None for a tagger without a projection."""
    map_BWFN: Tensor
    """The encoder's features before pooling, see `EncodedAudio`."""


class Tagger(nn.Module):
    """Waveforms to the logits of classes of which a clip may have several.

    The classifier is one linear layer over the embedding, for every encoder alike. The published ones are other: a
    hidden layer of 1280 for MobileNetV3, a layer norm before for AST and PaSST, a convolution over the map for HTS-AT;
    with `settings.start_classes` the encoder keeps its own. `projection` takes the same embedding. Both run in
    float32 under autocast, as the front end does; the network between them does not.

    A new model draws its weights from torch's global generator, the encoder first, so that a seed gives the same
    encoder and classifier with a projection and without. `build_tagger` also seeds it and reads `settings.start`;
    this class never does.

    Args:
        class_names, class_ids: K of each in the order of the logits; the ids all different.
        text_width: D; only a tagger with a projection has it.
    """

    def __init__(
        self,
        settings: TaggerSettings,
        class_names: Sequence[str],
        class_ids: Sequence[str],
        text_width: int | None = None,
    ):
        super().__init__()
        if not class_ids or len(class_names) != len(class_ids) or len(set(class_ids)) != len(class_ids):
            raise ValueError(
                f"expected a name and an id of its own for each class, got {len(class_names)} names and "
                f"{len(set(class_ids))} different ids of {len(class_ids)}"
            )
        if settings.projection != "none" and text_width is None:
            raise ValueError(f"projection {settings.projection} leads into the space of the class texts: no text_width")
        self.settings = settings = settings.resolved()
        self.class_names, self.class_ids = tuple(class_names), tuple(class_ids)
        self.text_width = text_width if settings.projection != "none" else None
        design = settings.design
        if settings.start_classes:
            network = design.network.model_copy(update={NUM_CLASSES_KEY: self.num_classes})
            design = replace(design, network=network)
        self.encoder: WaveformEncoder = assembled(design)
        self.head_dropout = nn.Dropout(settings.head_dropout)
        self.classifier: nn.Linear | None = None
        if not settings.start_classes:
            self.classifier = nn.Linear(self.embedding_width, self.num_classes)
        self.projection = self._new_projection()

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        return self.encoder.sample_rate

    @property
    def crop_samples(self) -> int:
        """Length of a waveform in training; shorter ones are fine."""
        return self.encoder.crop_samples

    @property
    def embedding_width(self) -> int:
        """W, the width of what the encoder returns."""
        return self.encoder.embedding_width

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_ids)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, waveform_BT: Tensor) -> Tagged:
        spectrogram_BNF = self.encoder.spectrogram(waveform_BT)
        if self.training:
            spectrogram_BNF = mask_spectrogram(spectrogram_BNF, self.settings.spec_mask)
        encoded = self.encoder.network.encode(spectrogram_BNF)
        with torch.autocast(spectrogram_BNF.device.type, enabled=False):
            embedding_BW = encoded.embedding_BW.float()
            if self.classifier is None:
                logits_BK = self.encoder.class_logits(EncodedAudio(embedding_BW, encoded.map_BWFN.float()))
            else:
                logits_BK = self.classifier(self.head_dropout(embedding_BW))
            audio_BD = self.projection(embedding_BW) if self.projection is not None else None
        return Tagged(logits_BK, audio_BD, encoded.map_BWFN)

    def score_waveforms(self, waveforms_BT: np.ndarray) -> np.ndarray:
        """Probabilities (B, K), float32, of mono waveforms at `sample_rate`.

        A row does not depend on its batch beyond rounding, and the same batch gives the same bits.
        """
        waveform_BT = checked_waveforms(waveforms_BT)
        with exact_evaluation(self):
            return torch.sigmoid(self(waveform_BT).logits_BK).cpu().numpy()

    def fingerprint(self) -> str:
        """SHA-256 over weights, settings and classes; where the encoder started from does not count."""
        settings = plain(self.settings)
        del settings["start"]
        outside = [self.class_names, self.class_ids, self.text_width]
        parts = [json.dumps(settings, sort_keys=True), json.dumps(outside), weights_digest(self)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _new_projection(self) -> nn.Module | None:
        if self.text_width is None:
            return None
        if self.settings.projection == "linear":
            return nn.Linear(self.embedding_width, self.text_width)
        return Projection(self.embedding_width, self.text_width, dropout=self.settings.projection_dropout)


def build_tagger(
    settings: TaggerSettings,
    class_names: Sequence[str],
    class_ids: Sequence[str],
    text_width: int | None,
    *,
    seed: int,
    key: str = "start",
) -> Tagger:
    """A tagger whose random weights depend on `seed` alone; the encoder then starts from `settings.start`.

    The kernels of a PANNs or HTS-AT file come with it, and the tagger's settings say so (`front_end.kernels: stored`).

    Args:
        key: dotted key of `settings.start`, for messages.

    Raises:
        ConfigError: `settings.start` cannot be found or is of something else; see `published_encoder`.
        DataError: its weights do not fit.
    """
    published = None
    if settings.start is not None:
        published = published_encoder(settings, with_classes=settings.start_classes, key=key)
        if settings.start_classes:
            check_classes(published, class_ids, f"{key}_classes: {settings.start.location}")
        settings = with_front_end_of(published, settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tagger = Tagger(settings, class_names, class_ids, text_width)
    if published is not None and settings.start is not None:
        copy_weights(published, tagger.encoder, settings.start.location)
    return tagger
