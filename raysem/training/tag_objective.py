"""The objective of tagging: BCE, OBCE and SPA's alignment, each with its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from raysem.config import Settings
from raysem.losses.alignment import AlignmentForm, alignment_loss
from raysem.losses.binary import binary_cross_entropy_with_logits
from raysem.losses.ontology_aware import ontology_aware_bce_with_logits
from raysem.models.tagger import Tagger
from raysem.ontology.tag_classes import TagClasses
from raysem.training.loader import ClipBatch
from raysem.training.objective import Measured

# Shapes: B clips of one rank, T samples, K classes, D width of the text encoder.


class TagObjectiveSettings(Settings):
    """L = bce L_BCE + obce L_OBCE + spa L_SPA. The weights (1, 0, 0) are the one-hot baseline.

    The paper's weights are not known to us; (0, 1, 0) is OBCE as its authors train it, (1, 1, 1) the sum that SPA's
    abstract names.
    """

    bce_weight: float = Field(1.0, ge=0)
    obce_weight: float = Field(0.0, ge=0)
    spa_weight: float = Field(0.0, ge=0)
    obce_beta: float = Field(1.0, gt=0)
    """Power of the ontology's distances in OBCE; the paper has 1."""
    spa_form: AlignmentForm = "label_mean"
    """How several labels combine in L_SPA, both our reading: `label_mean` or `per_label`."""

    @model_validator(mode="after")
    def _has_a_classifier_to_train(self) -> TagObjectiveSettings:
        if not self.bce_weight + self.obce_weight:
            raise ValueError("bce_weight and obce_weight are both 0: nothing trains the classifier")
        return self

    @property
    def by_name(self) -> dict[str, float]:
        """The weights of the losses that are computed."""
        weights = {"bce": self.bce_weight, "obce": self.obce_weight, "spa": self.spa_weight}
        return {name: weight for name, weight in weights.items() if weight > 0}


class TagNetwork(nn.Module):
    """A tagger whose outputs are tensors, for the wrapper that shares gradients over ranks."""

    def __init__(self, tagger: Tagger, *, aligned: bool):
        super().__init__()
        self.tagger, self._aligned = tagger, aligned

    def forward(self, waveform_BT: Tensor) -> tuple[Tensor, ...]:
        """logits_BK, and audio_BD where it is aligned with texts."""
        tagged = self.tagger(waveform_BT)
        return (tagged.logits_BK, tagged.audio_BD) if self._aligned else (tagged.logits_BK,)


class TaggingObjective:
    """The weighted losses over the global batch.

    Raises:
        ValueError: L_SPA is asked for, and the classes have no texts or the tagger no projection.
    """

    def __init__(self, tagger: Tagger, classes: TagClasses, settings: TagObjectiveSettings, device: torch.device):
        aligned = settings.spa_weight > 0
        if aligned and classes.text_KD is None:
            raise ValueError("spa_weight is above 0, and the classes have no texts")
        if aligned and tagger.projection is None:
            raise ValueError("spa_weight is above 0, and the tagger has no projection")
        self.network: nn.Module = TagNetwork(tagger, aligned=aligned)
        self.weights: Mapping[str, float] = settings.by_name
        self._classes, self._settings, self._device = classes, settings, device
        self._distance_KK = torch.from_numpy(classes.distance_KK.astype(np.float32)).to(device)
        self._text_KD = torch.from_numpy(np.array(classes.text_KD)).to(device) if aligned else None
        self._half: torch.dtype | None = None

    def use_half_precision(self, dtype: torch.dtype | None) -> None:
        """Run the network under autocast to `dtype`; losses stay in fp32."""
        self._half = dtype

    def losses(self, batch: ClipBatch) -> Measured:
        """Those with a weight; a collective."""
        targets_BK = soft_targets(batch.texts, self._classes).to(self._device)
        with torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None):
            outputs = self.network(batch.waveform_BT)
        logits_BK = outputs[0].float()
        found: dict[str, Tensor] = {}
        if "bce" in self.weights:
            found["bce"] = binary_cross_entropy_with_logits(logits_BK, targets_BK)
        if "obce" in self.weights:
            beta = self._settings.obce_beta
            found["obce"] = ontology_aware_bce_with_logits(logits_BK, targets_BK, self._distance_KK, beta=beta)
        if self._text_KD is not None:
            found["spa"] = alignment_loss(outputs[1].float(), targets_BK, self._text_KD, form=self._settings.spa_form)
        return Measured(found)

    def reached(self, waveform_BT: Tensor) -> Tensor:
        """A scalar of the network's outputs."""
        return torch.stack([output.sum() for output in self.network(waveform_BT)]).sum()

    def after_step(self) -> None:
        """Nothing is bounded."""

    def parameters_to_log(self) -> dict[str, float]:
        """None."""
        return {}


def soft_targets(texts: Sequence[Mapping[str, float]], classes: TagClasses) -> Tensor:
    """targets_BK of labels with weights."""
    targets_BK = torch.zeros(len(texts), len(classes))
    for row, labels in enumerate(texts):
        for name, weight in labels.items():
            targets_BK[row, classes.place_of(name, where="a training clip")] = weight
    return targets_BK
