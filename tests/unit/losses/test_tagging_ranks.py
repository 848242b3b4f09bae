"""Two gloo ranks equal one process on the joined batch: the losses of tagging and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_ranks import on_two_ranks

from raysem.losses.alignment import alignment_loss
from raysem.losses.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from raysem.losses.gather import mean_over_ranks
from raysem.losses.ontology_aware import ontology_aware_bce, ontology_aware_bce_with_logits, ontology_weights

LINE = torch.tensor([[abs(a - b) for a in range(5)] for b in range(5)])
TEXTS_KD = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": lambda output, y: binary_cross_entropy(output.sigmoid(), y),
    "bce of logits": binary_cross_entropy_with_logits,
    "obce": lambda output, y: ontology_aware_bce(output.sigmoid(), y, LINE),
    "obce of logits": lambda output, y: ontology_aware_bce_with_logits(output, y, LINE),
    "label_mean": lambda output, y: alignment_loss(output, y, TEXTS_KD),
    "per_label": lambda output, y: alignment_loss(output, y, TEXTS_KD, form="per_label"),
}
# equal and unequal shares of the 9 clips; in the last, rank 1 has clips without labels only
SHARES = {"in turns": [[0, 2, 4, 6], [1, 3, 5, 7]], "unequal": [[0, 1, 2, 3, 4, 5], [6, 7, 8]],
          "unlabelled": [[0, 1, 2, 3], [4, 8]]}  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets_BK = (torch.rand(9, 5, generator=generator) * 2 - 1).clamp(min=0)
    targets_BK[:, 0] += 0.2
    targets_BK[[4, 8]] = 0
    return torch.randn(9, 7, generator=generator), targets_BK


def measured(rows: list[int], *, in_group: bool) -> dict[str, Any]:
    features_BW, targets_BK = (tensor[rows] for tensor in batch())
    found: dict[str, Any] = {"weights": ontology_weights(targets_BK, LINE)}
    for name, loss_of in LOSSES.items():
        torch.manual_seed(1)
        head = nn.Linear(7, 5)
        network = DistributedDataParallel(head) if in_group else head
        loss = loss_of(network(features_BW), targets_BK)
        loss.backward()
        found[name] = (loss.detach(), head.weight.grad, head.bias.grad)
    return found


def on_one_rank(rank: int) -> list[dict[str, Any]]:
    return [measured(rows[rank], in_group=True) for rows in SHARES.values()]


def test_losses_and_gradients_of_two_ranks_are_those_of_the_joined_batch(tmp_path: Path):
    for rank, found in enumerate(on_two_ranks(on_one_rank, tmp_path)):
        for rows, two in zip(SHARES.values(), found, strict=True):
            one = measured([*rows[0], *rows[1]], in_group=False)
            begin = rank * len(rows[0])
            torch.testing.assert_close(two.pop("weights"), one.pop("weights")[begin:][: len(rows[rank])])
            for name, values in one.items():
                for alone, together in zip(values, two[name], strict=True):
                    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_a_mean_over_nothing_is_zero_and_its_count_has_no_gradient():
    values, count = torch.ones(3, requires_grad=True), torch.zeros((), requires_grad=True)
    mean = mean_over_ranks(values * 0, count)
    mean.backward()
    assert float(mean.detach()) == 0
    assert count.grad is None
    assert float(mean_over_ranks(values.detach(), torch.tensor(6))) == pytest.approx(0.5)
