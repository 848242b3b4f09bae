"""SemanticAC: a clip belongs to the label whose prompt it is nearest to, in a space that audio and prompts share."""

# Shapes: B clips in the batch, T samples, W width of the audio encoder, F rows and N columns of its map, K labels,
# P prompts of a label, Q texts, V width of the text encoder, C width of the shared space.

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysem.audio.spec_mask import mask_spectrogram
from raysem.config import plain
from raysem.models.clap import weights_digest
from raysem.models.classifier_settings import ClassifierSettings, check_labels
from raysem.models.encoder import EncodedAudio, WaveformEncoder
from raysem.models.encoder_start import copy_weights, published_encoder, with_front_end_of
from raysem.models.protocol import by_length, checked_waveforms, exact_evaluation
from raysem.models.registry import assembled
from raysem.models.similarity import Cscm, build_similarity
from raysem.text.encoder import TextEncoder
from raysem.text.ensemble import ensemble_mean
from raysem.text.prompts import label_prompts


class Classifier(nn.Module):
    """Waveforms to one of K labels (Xiao et al. 2023), by prompts or, as the baseline, by a linear layer.

    With prompts the labels at hand may be others than those of training (`embed_labels`). The front end runs in
    float32; what follows under autocast where that is on, up to the vectors, which are float32.

    A new model draws its weights from torch's global generator, the audio encoder first, so that a seed gives the same
    encoder whatever follows it. `build_classifier` also seeds it and reads `settings.start`; this class never does.

    Args:
        labels: K different names, in the order of the outputs.
        text_encoder: a loaded encoder, instead of reading `settings.text`.
    """

    def __init__(self, settings: ClassifierSettings, labels: Sequence[str], *, text_encoder: TextEncoder | None = None):
        super().__init__()
        check_labels(labels)
        self.settings = settings = settings.resolved()
        self.labels = tuple(labels)
        self.encoder: WaveformEncoder = assembled(settings.design)
        self.audio_dropout = nn.Dropout(settings.audio_dropout)
        self.similarity: nn.Module | None = None
        self.classifier: nn.Linear | None = None
        self.text_encoder: TextEncoder | None = None
        self.text_projection: nn.Linear | None = None
        if settings.similarity is None:
            self.classifier = nn.Linear(self.encoder.embedding_width, len(labels))
            return
        width = settings.shared_width
        self.similarity = build_similarity(settings.similarity, self.encoder.embedding_width, width)
        if text_encoder is None:
            with torch.random.fork_rng(devices=[]):  # transformers may draw; what follows depends on the seed alone
                text_encoder = TextEncoder(settings.text)
        self.text_encoder = text_encoder
        if self.text_encoder.width != width:
            self.text_projection = nn.Linear(self.text_encoder.width, width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(settings.initial_scale)))
        self.prompts(self.labels, key="prompts")  # what cannot be told apart is said before any training

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        return self.encoder.sample_rate

    @property
    def crop_samples(self) -> int:
        """Length of a waveform in training; shorter ones are fine."""
        return self.encoder.crop_samples

    @property
    def num_labels(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def reads_text(self) -> bool:
        """Whether labels are prompts; the baseline knows those of its training alone."""
        return self.similarity is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.encoder.parameters()).device

    # In training

    def encode_audio(self, waveform_BT: Tensor) -> Tensor:
        """audio_BC, float32, of any length; of the baseline logits_BK."""
        spectrogram_BNF = self.encoder.spectrogram(waveform_BT)
        if self.training:
            spectrogram_BNF = mask_spectrogram(spectrogram_BNF, self.settings.spec_mask)
        encoded: EncodedAudio = self.encoder.network.encode(spectrogram_BNF)
        if self.similarity is None:
            assert self.classifier is not None
            return self.classifier(self.audio_dropout(encoded.embedding_BW)).float()
        map_BWFN = encoded.map_BWFN
        if isinstance(self.similarity, Cscm):  # the others go through time, which the map's columns do
            map_BWFN = self.encoder.network.image(map_BWFN)
        return self.similarity(self.audio_dropout(map_BWFN)).float()

    def encode_text(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """text_QC, float32, of any length, from `text_encoder.tokenize(texts)`."""
        return self.encode_text_features(self._text_tower(tokens))

    def encode_text_features(self, text_QV: Tensor) -> Tensor:
        """text_QC from features of the text encoder: those of a frozen one can be kept."""
        self._check_reads_text()
        text_QV = text_QV.to(self.device)
        return (text_QV if self.text_projection is None else self.text_projection(text_QV)).float()

    def scale(self) -> Tensor:
        """The factor of the cosines."""
        self._check_reads_text()
        return self.logit_scale.clamp(0.0, self._max_log_scale).exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Bring the parameter back between its bounds; to be called after each optimizer step."""
        if self.reads_text:
            self.logit_scale.clamp_(0.0, self._max_log_scale)

    def prompts(self, labels: Sequence[str], *, key: str = "labels") -> tuple[tuple[str, ...], ...]:
        """The prompts of labels, a row for each.

        Raises:
            ConfigError: two labels have a prompt in common; the message begins with `key`.
        """
        if isinstance(labels, str):
            raise ValueError(f"expected a list of labels, got {labels!r}")
        return label_prompts(labels, self.settings.prompts.templates, key=key, words=self.settings.label_words)

    # Afterwards

    def embed_labels(self, labels: Sequence[str], *, key: str = "labels") -> np.ndarray:
        """Unit vectors (K, C), float32, of any labels: each the mean of the unit vectors of its prompts."""
        encoder, prompts = self._text_tower, self.prompts(labels, key=key)
        texts = [text for row in prompts for text in row]
        text_QC = torch.empty(len(texts), self.settings.shared_width)
        with exact_evaluation(self):
            for places in by_length(texts, 1):  # on its own: padding and company would change a vector's last bits
                text_QC[places] = self.encode_text(encoder.tokenize([texts[place] for place in places])).cpu()
            text_KC = F.normalize(ensemble_mean(text_QC.unflatten(0, (len(prompts), -1))), dim=-1)
        return text_KC.numpy()

    def score_waveforms(self, waveforms_BT: np.ndarray, text_KC: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (B, K), float32, of mono waveforms at `sample_rate`: each row sums to 1.

        Args:
            text_KC: unit vectors of labels from `embed_labels`; the baseline has none.
        """
        waveform_BT = checked_waveforms(waveforms_BT)
        if (text_KC is None) == self.reads_text:
            raise ValueError("vectors of labels are needed where, and only where, the classifier reads text")
        width = self.settings.shared_width
        if text_KC is not None and (text_KC.ndim != 2 or text_KC.shape[1] != width):
            raise ValueError(f"expected vectors of labels (K, {width}), got {text_KC.shape}")
        with exact_evaluation(self):
            audio_BC = self.encode_audio(waveform_BT)
            if text_KC is None:
                return torch.softmax(audio_BC, dim=-1).cpu().numpy()
            text = torch.from_numpy(np.array(text_KC, np.float32)).to(self.device)
            return torch.softmax(self.scale() * F.normalize(audio_BC, dim=-1) @ text.T, dim=-1).cpu().numpy()

    def fingerprint(self) -> str:
        """SHA-256 over weights, settings, labels and tokenizer; where anything was read from does not count."""
        settings = plain(self.settings)
        del settings["start"], settings["text"]["name"]
        files = self.text_encoder.files_digest() if self.text_encoder is not None else ""
        parts = [json.dumps(settings, sort_keys=True), json.dumps(self.labels), files, weights_digest(self)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def _text_tower(self) -> TextEncoder:
        self._check_reads_text()
        assert self.text_encoder is not None
        return self.text_encoder

    def _check_reads_text(self) -> None:
        if not self.reads_text:
            raise ValueError("the baseline reads no text")

    @property
    def _max_log_scale(self) -> float:
        return math.log(self.settings.max_scale)


def build_classifier(
    settings: ClassifierSettings,
    labels: Sequence[str],
    *,
    seed: int,
    text_encoder: TextEncoder | None = None,
    key: str = "start",
) -> Classifier:
    """A classifier whose random weights depend on `seed` alone; the encoder then starts from `settings.start`.

    Args:
        key: dotted key of `settings.start`, for messages.

    Raises:
        ConfigError: `settings.start` cannot be found or is of something else; two labels share a prompt.
        DataError: its weights do not fit.
    """
    published = None
    if settings.start is not None:
        published = published_encoder(settings, key=key)
        settings = with_front_end_of(published, settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier(settings, labels, text_encoder=text_encoder)
    if published is not None and settings.start is not None:
        copy_weights(published, classifier.encoder, settings.start.location)
    return classifier
