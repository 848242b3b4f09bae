from __future__ import annotations

import math

import pytest
import torch

from raysem.losses.binary import binary_cross_entropy, binary_cross_entropy_with_logits


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator), (torch.rand(6, 4, generator=generator) * 2 - 1).clamp(min=0)


def test_undecided_scores_cost_the_logarithm_of_two():
    for loss in (binary_cross_entropy(torch.full((3, 2), 0.5), torch.eye(3)[:, :2]),
                 binary_cross_entropy_with_logits(torch.zeros(3, 2), torch.eye(3)[:, :2])):  # fmt: skip
        assert float(loss) == pytest.approx(math.log(2))


def test_both_forms_agree_with_the_loop_over_entries():
    logits_BK, targets_BK = batch()
    total = 0.0
    for logit, y in zip(logits_BK.flatten().tolist(), targets_BK.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= (y * math.log(p) + (1 - y) * math.log(1 - p)) / logits_BK.numel()
    assert float(binary_cross_entropy(logits_BK.sigmoid(), targets_BK)) == pytest.approx(total, rel=1e-6)
    assert float(binary_cross_entropy_with_logits(logits_BK, targets_BK)) == pytest.approx(total, rel=1e-6)


def test_the_gradient_of_logits_is_the_error_over_the_number_of_entries():
    logits_BK, targets_BK = batch()
    for form in (lambda x: binary_cross_entropy_with_logits(x, targets_BK),
                 lambda x: binary_cross_entropy(x.sigmoid(), targets_BK)):  # fmt: skip
        leaf = logits_BK.clone().requires_grad_()
        form(leaf).backward()
        torch.testing.assert_close(leaf.grad, (logits_BK.sigmoid() - targets_BK) / 24)


def test_order_of_clips_and_classes_does_not_matter():
    logits_BK, targets_BK = batch()
    turned = binary_cross_entropy_with_logits(logits_BK.flip(0, 1), targets_BK.flip(0, 1))
    torch.testing.assert_close(turned, binary_cross_entropy_with_logits(logits_BK, targets_BK))


def test_a_certain_mistake_is_finite_and_only_logits_unlearn_it():
    wrong = torch.tensor([[40.0]], requires_grad=True)
    clamped = binary_cross_entropy(wrong.sigmoid(), torch.zeros(1, 1))
    assert float(clamped.detach()) == pytest.approx(-math.log(1.1920929e-07), rel=1e-4)  # 1 - 1e-7 in fp32
    assert torch.autograd.grad(clamped, wrong)[0] == 0
    assert torch.autograd.grad(binary_cross_entropy_with_logits(wrong, torch.zeros(1, 1)), wrong)[0] == 1


def test_the_loss_is_in_fp32_under_autocast_and_for_half_inputs():
    logits_BK, targets_BK = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert binary_cross_entropy(logits_BK.sigmoid(), targets_BK).dtype == torch.float32
    assert binary_cross_entropy_with_logits(logits_BK.bfloat16(), targets_BK.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 2), (3,), (0, 4)])
def test_shapes_that_do_not_fit_are_named(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"alike and not empty, got"):
        binary_cross_entropy(torch.full(shape, 0.5), torch.zeros((3, 4) if len(shape) == 2 and shape[0] else shape))
