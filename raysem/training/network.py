"""The network as the loop runs it: without parameters that no loss reaches, over several ranks, compiled."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysem.training.context import TrainContext
from raysem.training.objective import Objective
from raysem.training.settings import TrainingSettings

log = logging.getLogger(__name__)

HALF_PRECISION = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def freeze_unreached(model: nn.Module, objective: Objective, crop_samples: int, context: TrainContext) -> None:
    """Freeze parameters that no loss reaches (a tagging head); they would make the ranks wait for their gradients."""
    device = context.device
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        objective.reached(torch.randn(2, crop_samples, device=device) * 0.1).backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for name in unused:
        model.get_parameter(name).requires_grad_(False)
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    if unused and context.rank == 0:
        log.info("parameters that no loss reaches stay as they are: %s", ", ".join(unused))


class WrappedNetwork:
    """Puts an objective's network into half precision, over all ranks, and compiles it, as the settings ask for."""

    def __init__(self, objective: Objective, settings: TrainingSettings, context: TrainContext):
        objective.use_half_precision(HALF_PRECISION[settings.precision])
        self._parallel: DistributedDataParallel | None = None
        if context.world_size > 1:
            self._parallel = objective.network = DistributedDataParallel(
                objective.network,
                device_ids=[context.device] if context.device.type == "cuda" else None,
                broadcast_buffers=not settings.sync_batch_norm,
                gradient_as_bucket_view=True,
            )
        if settings.compile:
            objective.network = cast(nn.Module, torch.compile(objective.network))

    def sharing(self, gradients: bool) -> AbstractContextManager:
        """Within: whether a backward averages the gradients over ranks, or leaves that to a later part of the step."""
        return nullcontext() if self._parallel is None or gradients else self._parallel.no_sync()
