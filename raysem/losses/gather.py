"""Tensors of every rank on every rank, with the right gradients; the identity without a process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Shapes: B local rows, D width, G = B x world size global rows.


def in_group() -> bool:
    """Whether there is a process group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_with_gradient(tensor_BD: Tensor) -> Tensor:
    """All ranks' rows as tensor_GD, rank 0's first, the same on every rank; gradients flow back to their rank.

    The backward sums the gradient over ranks. When every rank computes the same loss from the gathered rows, a rank's
    own gradient is therefore world_size times its share, and the average that DistributedDataParallel takes over ranks
    is the gradient of that loss, as in one process on the joined batch. Every rank must hold as many rows.
    """
    return _Gather.apply(tensor_BD) if in_group() else tensor_BD


@torch.no_grad()
def gather(tensor_BD: Tensor) -> Tensor:
    """All ranks' rows as tensor_GD without gradient."""
    return _all_rows(tensor_BD) if in_group() else tensor_BD


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Elementwise sum over ranks, on every rank; the backward sums the gradients likewise."""
    return _Sum.apply(tensor) if in_group() else tensor


def _all_rows(tensor_BD: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor_BD, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor_BD.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor_BD: Tensor) -> Tensor:
        ctx.num_rows = len(tensor_BD)
        return _all_rows(tensor_BD)

    @staticmethod
    def backward(ctx: Any, gradient_GD: Tensor) -> Tensor:  # type: ignore[override]
        total_GD = gradient_GD.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total_GD)
        return total_GD[dist.get_rank() * ctx.num_rows :][: ctx.num_rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def mean_over_ranks(values: Tensor, count: Tensor | None = None) -> Tensor:
    """Sum of `values` over all ranks divided by their number there, a scalar, the same on every rank.

    Ranks may hold different numbers of values. Gradients as in `gather_with_gradient`: a rank's own is world_size
    times its share, and DistributedDataParallel's average is that of one process on the joined batch.

    Args:
        count: what the rank adds to the divisor instead of its number of values; no gradient flows there. Where it is
            0 on every rank, the mean is 0.
    """
    own = torch.full((), values.numel(), device=values.device) if count is None else count.detach()
    total, number = sum_over_ranks(torch.stack([values.sum(), own.to(values.dtype)])).unbind()
    return total / number.detach().clamp(min=torch.finfo(values.dtype).tiny)
