"""A moving average of the trained weights: what is evaluated and kept in place of the last step's."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raysem.errors import DataError


class WeightAverage:
    """Exponential moving average of a model's trained parameters, in fp32 on their device.

    After update t, counted from 0, average = d_t average + (1 - d_t) parameter with d_t = min(decay, (1 + t) /
    (10 + t)), the warm-up of TensorFlow's ExponentialMovingAverage: without it the initial weights would stay in the
    average for some 1 / (1 - decay) steps.

    Buffers are not averaged: the average goes with the model's own, as they are. The running mean and variance of
    batch normalisation are moving averages already, over far fewer steps than these; averaged again they would lag
    behind weights that still move, and a counter has no average. They were measured on the weights of single steps, not
    on the averaged ones; whoever needs the latter's measures them again within `applied`.

    A function of the model's weights alone: ranks that hold the same weights hold the same average, without
    communication. It costs one copy of the trained parameters, and another one within `applied`.

    Args:
        model: starts the average. What is to be frozen must be frozen by now.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, got {decay}")
        self._decay, self._updates, self._applied = decay, 0, False
        self._averages = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in _trained(model).items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model`, once after each optimizer step."""
        if self._applied:
            raise ValueError("the averaged weights are in the model; there is nothing to take in")
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for name, parameter in self._matching(model).items():
            self._averages[name].lerp_(parameter.detach().float(), 1 - decay)
        self._updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Generator[None, None, None]:
        """Within, `model` has the averaged weights; afterwards its own again, to the bit, whatever was raised.

        What happens within to its trained parameters and its buffers is undone too.
        """
        if self._applied:
            raise ValueError("the averaged weights are in the model already")
        tensors = [*self._matching(model).values(), *model.buffers()]
        own = [tensor.detach().clone() for tensor in tensors]
        self._applied = True
        try:
            self.copy_to(model)
            yield
        finally:
            with torch.no_grad():
                for tensor, before in zip(tensors, own, strict=True):
                    tensor.copy_(before)
            self._applied = False

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the averaged weights into `model` for good; its buffers stay."""
        for name, parameter in self._matching(model).items():
            parameter.copy_(self._averages[name])

    def tensors(self) -> dict[str, Any]:
        """What a resume needs, without copies."""
        return {"updates": self._updates, "averages": dict(self._averages)}

    def load(self, tensors: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            DataError: it is the average of another model.
        """
        saved: Mapping[str, Tensor] = tensors["averages"]
        own = self._averages
        missing, left_over = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
        shapes = sorted(name for name in own.keys() & saved.keys() if own[name].shape != saved[name].shape)
        if missing or left_over or shapes:
            raise DataError(
                f"averaged weights: are of another model; missing {missing}, left over {left_over}, "
                f"other shape {shapes}"
            )
        for name, average in own.items():
            average.copy_(saved[name])
        self._updates = int(tensors["updates"])

    def _matching(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The trained parameters of `model`, which are those of the average."""
        trained = _trained(model)
        if trained.keys() != self._averages.keys():
            changed = sorted(trained.keys() ^ self._averages.keys())
            raise ValueError(f"the trained parameters are not those of the average: {changed}")
        return trained


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
