"""From losses to changed weights: gradients, their clipping, the learning rate of each step, the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from raysem.errors import ConfigError
from raysem.training.schedule import Schedule
from raysem.training.settings import TrainingSettings


class WeightUpdates:
    """The optimizer over the trained parameters of a model, its schedule, and for fp16 its scaler of the gradient.

    Args:
        layer_depths: the layer of each trained parameter, for `layer_decay`; see `build_optimizer`.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        device: torch.device,
        layer_depths: Mapping[str, int] | None = None,
    ):
        self._settings = settings
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(model, settings, layer_depths)
        self._learning_rate = settings.learning_rate
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.schedule = Schedule(settings.schedule, settings.steps)

    @property
    def learning_rate(self) -> float:
        """That of the step begun last, before layer-wise decay."""
        return self._learning_rate

    @property
    def skips_infinite(self) -> bool:
        """Whether a step with a gradient that is not finite is left out by itself, with a smaller scale thereafter."""
        return self._scaler.is_enabled()

    def begin(self, step: int) -> None:
        """Forget the gradients, and take the learning rate of `step`, counted from 0."""
        self._learning_rate = self._settings.learning_rate * self.schedule.factor(step)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * group["scale"]
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
        scales = [group["scale"] for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(tensors["optimizer"])
        for group, scale in zip(self._optimizer.param_groups, scales, strict=True):
            group["scale"] = scale  # a state written before there was layer-wise decay has none
        self._scaler.load_state_dict(tensors["scaler"])
        self.schedule.load(schedule)


def build_optimizer(
    model: nn.Module, settings: TrainingSettings, layer_depths: Mapping[str, int] | None = None
) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over the trained parameters; weight decay spares vectors and scalars.

    With `layer_decay` below 1 each layer has groups of its own, whose learning rate is to be multiplied by the group's
    "scale", layer_decay ** (num_layers - depth): BEiT's layer-wise decay, in which the last layer, as a rule the head,
    learns at the full rate. Without it there are at most two groups, of scale 1.

    Args:
        layer_depths: for each trained parameter, by name, its layer, 0 nearest to the input; num_layers is the largest.
            Frozen parameters may be in it.

    Raises:
        ConfigError: a layer decay is asked for, and the model does not tell its layers.
    """
    depths = _depths(model, settings, layer_depths)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depths[name], parameter.ndim <= 1), []).append(parameter)
    num_layers = max(depths.values(), default=0)
    described: list[dict[str, Any]] = [
        {
            "params": groups[depth, spared],
            "weight_decay": 0.0 if spared else settings.weight_decay,
            "scale": settings.layer_decay ** (num_layers - depth),
        }
        for depth, spared in sorted(groups)
    ]
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(described, lr=settings.learning_rate, momentum=momentum, nesterov=momentum > 0)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(described, lr=settings.learning_rate)


def _depths(model: nn.Module, settings: TrainingSettings, layer_depths: Mapping[str, int] | None) -> Mapping[str, int]:
    """The layer of every parameter; one for all without layer-wise decay."""
    if settings.layer_decay == 1:
        return {name: 0 for name, _ in model.named_parameters()}
    if layer_depths is None:
        raise ConfigError(
            f"training.layer_decay: is {settings.layer_decay}, but this model does not tell its layers; leave it at 1"
        )
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing, unknown = sorted(trained - layer_depths.keys()), sorted(layer_depths.keys() - known)
    if missing or unknown:
        raise ValueError(f"layer_depths: no layer for {missing}, no parameter of the name {unknown}")
    return layer_depths
