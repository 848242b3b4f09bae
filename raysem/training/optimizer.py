"""From losses to changed weights: gradients, their clipping, the learning rate of each step, the optimizer."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from raysem.training.schedule import Schedule
from raysem.training.settings import TrainingSettings


class WeightUpdates:
    """The optimizer over the trained parameters of a model, its schedule, and for fp16 its scaler of the gradient."""

    def __init__(self, model: nn.Module, settings: TrainingSettings, device: torch.device):
        self._settings = settings
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(model, settings)
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.schedule = Schedule(settings.schedule, settings.steps)

    @property
    def learning_rate(self) -> float:
        return self._optimizer.param_groups[0]["lr"]

    @property
    def skips_infinite(self) -> bool:
        """Whether a step with a gradient that is not finite is left out by itself, with a smaller scale thereafter."""
        return self._scaler.is_enabled()

    def begin(self, step: int) -> None:
        """Forget the gradients, and take the learning rate of `step`, counted from 0."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * self.schedule.factor(step)
        self._optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        cast(Tensor, self._scaler.scale(loss)).backward()

    def clip(self) -> float:
        """Clip the gradient; returns its norm before that."""
        self._scaler.unscale_(self._optimizer)
        largest = self._settings.gradient_clip if self._settings.gradient_clip is not None else math.inf
        return float(nn.utils.clip_grad_norm_(self._trained, largest))

    def apply(self) -> None:
        """Change the weights."""
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def tensors(self) -> dict[str, Any]:
        """What a resume needs, besides the state of the schedule."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load(self, tensors: dict[str, Any], schedule: dict[str, Any]) -> None:
        """Go on from there."""
        self._optimizer.load_state_dict(tensors["optimizer"])
        self._scaler.load_state_dict(tensors["scaler"])
        self.schedule.load(schedule)


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained parameters; weight decay spares vectors and scalars."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind([group for group in groups if group["params"]], lr=settings.learning_rate)
