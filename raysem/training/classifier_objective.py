"""The objective of classification: clips near the prompts of their labels, or without text a plain cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysem.config import Settings
from raysem.losses.gather import gather, gather_with_gradient
from raysem.losses.label_contrast import LabelContrastForm, label_contrastive_loss
from raysem.models.classifier import Classifier
from raysem.text.ensemble import ensemble_mean
from raysem.training.loader import ClipBatch
from raysem.training.objective import Measured
from raysem.training.text_features import CaptionFeatures

# Shapes: B clips of one rank, T samples, K labels, P prompts of a label, Q texts, V width of the text encoder,
# C width of the shared space.


class ClassifierObjectiveSettings(Settings):
    """How a batch is contrasted with the prompts of its labels."""

    form: LabelContrastForm = "multi_positive"
    """`diagonal`: each clip against its own prompt alone, as SemanticAC prints it; two clips of one class are then
    negatives of one another. `multi_positive`: clips of one class share their targets."""


class LabelNetwork(nn.Module):
    """A classifier whose outputs are tensors, for the wrapper that shares gradients over ranks."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, waveform_BT: Tensor, text: Tensor | dict[str, Tensor] | None = None) -> tuple[Tensor, ...]:
        """audio_BC, text_QC and the scale; of the baseline logits_BK alone.

        Args:
            text: features of a frozen text encoder, or tokens.
        """
        classifier = self.classifier
        if text is None:
            return (classifier.encode_audio(waveform_BT),)
        encode = classifier.encode_text_features if isinstance(text, Tensor) else classifier.encode_text
        return classifier.encode_audio(waveform_BT), encode(text), classifier.scale()  # type: ignore[arg-type]


class LabelTexts:
    """The prompts of the labels in a batch as input of `LabelNetwork`: cached features, or tokens."""

    def __init__(self, classifier: Classifier, device: torch.device, *, cache_mib: int):
        assert classifier.text_encoder is not None
        self.prompts = classifier.prompts(classifier.labels)
        self._encoder, self._device = classifier.text_encoder, device
        trained = any(parameter.requires_grad for parameter in self._encoder.parameters())
        self._features = None if trained else CaptionFeatures(self._encoder, device, cache_mib=cache_mib)

    def __call__(self, labels: Sequence[int]) -> Tensor | dict[str, Tensor]:
        """The prompts of these labels, one label after the other: features text_QV, or tokens."""
        texts = [text for label in labels for text in self.prompts[label]]
        if self._features is not None:
            return self._features(texts)
        return {name: tensor.to(self._device) for name, tensor in self._encoder.tokenize(texts).items()}


class PromptObjective:
    """SemanticAC's symmetric cross-entropy over the global batch."""

    weights: Mapping[str, float] = {"label_contrastive": 1.0}

    def __init__(
        self,
        classifier: Classifier,
        settings: ClassifierObjectiveSettings,
        device: torch.device,
        *,
        text_cache_mib: int = 256,
    ):
        self.network: nn.Module = LabelNetwork(classifier)
        self._classifier, self._settings, self._device = classifier, settings, device
        self._texts = LabelTexts(classifier, device, cache_mib=text_cache_mib)
        self._half: torch.dtype | None = None

    def use_half_precision(self, dtype: torch.dtype | None) -> None:
        """Run the network under autocast to `dtype`; the loss stays in fp32."""
        self._half = dtype

    def losses(self, batch: ClipBatch) -> Measured:
        """The loss; a collective. Each label of this rank's part is encoded once."""
        places = label_places(batch, self._classifier)
        distinct = sorted(set(places))
        text = self._texts(distinct)
        with torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None):
            audio_BC, text_QC, scale = self.network(batch.waveform_BT, text)
        row_of = {place: row for row, place in enumerate(distinct)}
        text_KC = ensemble_mean(text_QC.float().unflatten(0, (len(distinct), -1)))
        text_BC = text_KC[torch.tensor([row_of[place] for place in places], device=self._device)]
        class_B = gather(torch.tensor(places, device=self._device)[:, None])[:, 0]
        loss = label_contrastive_loss(
            gather_with_gradient(audio_BC.float()),
            gather_with_gradient(text_BC),
            class_B,
            scale.float(),
            form=self._settings.form,
        )
        return Measured({"label_contrastive": loss})

    def reached(self, waveform_BT: Tensor) -> Tensor:
        """A scalar of the network's outputs."""
        return torch.stack([output.sum() for output in self.network(waveform_BT, self._texts([0, 1]))]).sum()

    def after_step(self) -> None:
        """Keep the scale within its bounds."""
        self._classifier.clamp_logit_scale()

    def parameters_to_log(self) -> dict[str, float]:
        """The scale of the cosines."""
        return {"logit_scale": float(self._classifier.scale().detach())}


class LinearObjective:
    """The baseline's cross-entropy over the labels, the mean over the global batch."""

    weights: Mapping[str, float] = {"cross_entropy": 1.0}

    def __init__(self, classifier: Classifier, device: torch.device):
        self.network: nn.Module = LabelNetwork(classifier)
        self._classifier, self._device = classifier, device
        self._half: torch.dtype | None = None

    def use_half_precision(self, dtype: torch.dtype | None) -> None:
        """Run the network under autocast to `dtype`; the loss stays in fp32."""
        self._half = dtype

    def losses(self, batch: ClipBatch) -> Measured:
        """The loss; a collective."""
        with torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None):
            (logits_BK,) = self.network(batch.waveform_BT)
        places_B = torch.tensor(label_places(batch, self._classifier), device=self._device)
        targets_B = gather(places_B[:, None])[:, 0]
        return Measured({"cross_entropy": F.cross_entropy(gather_with_gradient(logits_BK.float()), targets_B)})

    def reached(self, waveform_BT: Tensor) -> Tensor:
        """A scalar of the network's outputs."""
        return self.network(waveform_BT)[0].sum()

    def after_step(self) -> None:
        """Nothing is bounded."""

    def parameters_to_log(self) -> dict[str, float]:
        """None."""
        return {}


def label_places(batch: ClipBatch, classifier: Classifier) -> list[int]:
    """The place of each clip's one label among the classifier's."""
    return [classifier.labels.index(label) for label in batch.captions]
