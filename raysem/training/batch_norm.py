"""Batch normalisation over the global batch, so that the number of ranks changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raysem.losses.gather import in_group, sum_over_ranks

# Shapes: B clips, C channels, further axes after them.


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm1d/2d whose statistics are those of all ranks' batches, on any device.

    torch's SyncBatchNorm does the same on GPUs only. Parameters and buffers are shared with the module it replaces.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """As `_BatchNorm`; in training the mean and the variance are over ranks too."""
        if not self.training or not in_group():
            return super().forward(input)
        input_BC = input.float()
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = sum_over_ranks(torch.tensor(float(input.numel() // input.shape[1]), device=input.device))
        mean_C = sum_over_ranks(input_BC.sum(dim=axes)) / count
        centred_BC = input_BC - mean_C.view(shape)
        variance_C = sum_over_ranks((centred_BC * centred_BC).sum(dim=axes)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
                momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)  # type: ignore[arg-type]
                self.running_mean.lerp_(mean_C, momentum)
                self.running_var.lerp_(variance_C * (count / (count - 1)), momentum)
        output = centred_BC * torch.rsqrt(variance_C + self.eps).view(shape)
        if self.weight is not None:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)


def normalise_over_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with every batch normalisation over all ranks: torch's own on a GPU, `GlobalBatchNorm` elsewhere."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if isinstance(model, _BatchNorm):
        replaced = GlobalBatchNorm(
            model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats
        )
        replaced.weight, replaced.bias = model.weight, model.bias
        for name, buffer in model.named_buffers(recurse=False):
            setattr(replaced, name, buffer)
        return replaced.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, normalise_over_ranks(child, device))
    return model
