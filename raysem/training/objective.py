"""One small class per objective: from a rank's part of a batch to named losses over the global batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from raysem.config import Settings
from raysem.losses.contrastive import symmetric_contrastive_loss
from raysem.losses.gather import gather, gather_with_gradient
from raysem.losses.soft_label import SoftLabelForm, soft_label_loss, soft_label_targets
from raysem.training.loader import ClipBatch
from raysem.training.text_features import CaptionFeatures, same_weights

# Shapes: B pairs of one rank, T samples, W width of the text encoder, D embedding width.


class ObjectiveSettings(Settings):
    """What a student is trained for."""

    soft_label_weight: float = Field(0.0, ge=0, le=1)
    """alpha of the soft targets; 0 is the plain contrastive loss, without a teacher."""
    soft_label_form: SoftLabelForm = "raw"
    """raw: the teacher's cosines as in the paper; row_normalised; softmax of cosines / softmax_temperature."""
    softmax_temperature: float = Field(0.1, gt=0)
    replay_probability: float = Field(0.0, ge=0, le=1)
    """Chance that the whole batch of a step comes from the replay set."""


class AudioTextNetwork(Protocol):
    """What the objectives need of a model (`raysem.models.clap.Clap`): embeddings with gradients, rows in order."""

    sample_rate: int
    crop_samples: int
    text_encoder: nn.Module

    def encode_audio(self, waveform_BT: Tensor) -> Tensor: ...

    def encode_text(self, tokens: Mapping[str, Tensor]) -> Tensor: ...

    def encode_text_features(self, text_BW: Tensor) -> Tensor: ...

    def scale(self) -> Tensor: ...

    def clamp_logit_scale(self) -> None: ...


@dataclass(frozen=True)
class Measured:
    """Losses that are summed with the objective's weights, and numbers that are only logged."""

    losses: dict[str, Tensor]
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """Every call of `losses` is a collective: all ranks make it, and get the same values.

    `network` is the trainable part behind one forward call; the loop may replace it by a compiled or a distributed
    wrapper of itself.
    """

    network: nn.Module
    weights: Mapping[str, float]

    def losses(self, batch: ClipBatch) -> Measured: ...

    def use_half_precision(self, dtype: torch.dtype | None) -> None: ...

    def reached(self, waveform_BT: Tensor) -> Tensor:
        """A scalar of the network's outputs whose gradient reaches every parameter that a loss can reach."""
        ...

    def after_step(self) -> None:
        """Bring parameters back to where they may be, after the weights have changed."""
        ...

    def parameters_to_log(self) -> dict[str, float]:
        """Single parameters worth a curve."""
        ...


class PairEmbedder(nn.Module):
    """Both towers and the scale in one forward call, so that one wrapper sees every trained parameter."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, waveform_BT: Tensor, text: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """audio_BD, text_BD and the scale; `text` is features of a frozen encoder or tokens."""
        model: AudioTextNetwork = self.model  # type: ignore[assignment]
        encode = model.encode_text_features if isinstance(text, Tensor) else model.encode_text
        return model.encode_audio(waveform_BT), encode(text), model.scale()  # type: ignore[arg-type]


class TextInputs:
    """Captions as the input of `PairEmbedder`: cached features of a frozen text encoder, or tokens."""

    def __init__(self, model: nn.Module, device: torch.device, *, cache_mib: int = 256):
        self._encoder: nn.Module = model.text_encoder  # type: ignore[assignment]
        self._device = device
        frozen = not any(parameter.requires_grad for parameter in self._encoder.parameters())
        self.features = CaptionFeatures(self._encoder, device, cache_mib=cache_mib) if frozen else None

    def __call__(self, captions: list[str]) -> Tensor | dict[str, Tensor]:
        """text_BW or tokens, on the device."""
        if self.features is not None:
            return self.features(captions)
        tokens: Mapping[str, Tensor] = self._encoder.tokenize(captions)  # type: ignore[operator]
        return {name: tensor.to(self._device) for name, tensor in tokens.items()}


class ContrastiveObjective:
    """Symmetric contrastive loss over the global batch."""

    weights: Mapping[str, float] = {"contrastive": 1.0}

    def __init__(self, model: nn.Module, device: torch.device, *, text_cache_mib: int = 256):
        self.network: nn.Module = PairEmbedder(model)
        self._model = cast(AudioTextNetwork, model)
        self.text_inputs = TextInputs(model, device, cache_mib=text_cache_mib)
        self._device = device
        self._half: torch.dtype | None = None

    def use_half_precision(self, dtype: torch.dtype | None) -> None:
        """Run the network under autocast to `dtype`; losses stay in fp32."""
        self._half = dtype

    def reached(self, waveform_BT: Tensor) -> Tensor:
        """A scalar of the network's outputs."""
        audio_BD, text_BD, scale = self.network(waveform_BT, self.text_inputs(["a", "b"]))
        return audio_BD.sum() + text_BD.sum() + scale

    def after_step(self) -> None:
        """Keep the scale within its bounds."""
        self._model.clamp_logit_scale()

    def parameters_to_log(self) -> dict[str, float]:
        """The scale of the cosines."""
        return {"logit_scale": float(self._model.scale().detach())}

    def embed(self, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's audio_BD and text_BD in fp32, and the scale."""
        text = self.text_inputs(batch.captions)
        with torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None):
            audio_BD, text_BD, scale = self.network(batch.waveform_BT, text)
        return audio_BD.float(), text_BD.float(), scale.float()

    def losses(self, batch: ClipBatch) -> Measured:
        audio_BD, text_BD, scale = self.embed(batch)
        audio_BD, text_BD = gather_with_gradient(audio_BD), gather_with_gradient(text_BD)
        return Measured({"contrastive": symmetric_contrastive_loss(audio_BD, text_BD, scale)})


class SoftLabelObjective(ContrastiveObjective):
    """Divergence from the soft targets of a frozen teacher, over the global batch.

    The teacher sees the same crops and captions, in eval mode, in fp32 and without gradient.
    """

    weights: Mapping[str, float] = {"soft_label": 1.0}

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        device: torch.device,
        *,
        settings: ObjectiveSettings,
        text_cache_mib: int = 256,
    ):
        super().__init__(model, device, text_cache_mib=text_cache_mib)
        self._settings = settings
        self._teacher = teacher.eval().requires_grad_(False)
        self._teacher_text = TextInputs(self._teacher, device, cache_mib=text_cache_mib)
        own = self.text_inputs.features
        if own is not None and same_weights(model.text_encoder, teacher.text_encoder):  # type: ignore[arg-type]
            self._teacher_text.features = own  # a warm-started student: encode each caption once, not twice

    def losses(self, batch: ClipBatch) -> Measured:
        with torch.no_grad():
            self._teacher.eval()
            teacher: AudioTextNetwork = self._teacher  # type: ignore[assignment]
            teacher_audio_BD = gather(teacher.encode_audio(batch.waveform_BT).float())
            text = self._teacher_text(batch.captions)
            assert isinstance(text, Tensor)  # the teacher has no trained parameter
            teacher_text_BD = gather(teacher.encode_text_features(text).float())
        targets = soft_label_targets(
            teacher_audio_BD,
            teacher_text_BD,
            weight=self._settings.soft_label_weight,
            form=self._settings.soft_label_form,
            softmax_temperature=self._settings.softmax_temperature,
        )
        audio_BD, text_BD, scale = self.embed(batch)
        audio_BD, text_BD = gather_with_gradient(audio_BD), gather_with_gradient(text_BD)
        return Measured(
            {"soft_label": soft_label_loss(audio_BD, text_BD, scale, targets)},
            {
                "row_mass_audio": targets.row_mass_audio,
                "row_mass_text": targets.row_mass_text,
                "true_pair_share": targets.true_pair_share,
                "contrastive": symmetric_contrastive_loss(audio_BD.detach(), text_BD.detach(), scale.detach()),
            },
        )


def build_objective(
    model: nn.Module,
    settings: ObjectiveSettings,
    device: torch.device,
    *,
    load_teacher: Callable[[], nn.Module],
    text_cache_mib: int = 256,
) -> Objective:
    """The objective that `settings` describe; the teacher is loaded only when it has a say."""
    if settings.soft_label_weight == 0:
        return ContrastiveObjective(model, device, text_cache_mib=text_cache_mib)
    teacher = load_teacher().to(device)
    return SoftLabelObjective(model, teacher, device, settings=settings, text_cache_mib=text_cache_mib)
