# Shapes: K classes, P prompts per class, C width of the vectors.

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from raysem.text.ensemble import ensemble_mean


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_two_prompts_at_a_right_angle_have_the_vector_half_way():
    text_KPC = torch.tensor([[[3.0, 0.0], [0.0, 0.1]]])
    torch.testing.assert_close(ensemble_mean(text_KPC), torch.tensor([[0.5, 0.5]]))


def test_prompts_that_cancel_out_leave_nothing_and_equal_ones_a_unit_vector():
    text_KPC = torch.tensor([[[2.0, 0.0], [-5.0, 0.0]], [[0.0, 7.0], [0.0, 1.0]]])
    torch.testing.assert_close(ensemble_mean(text_KPC), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_one_prompt_is_itself_normalised(text: torch.Tensor):
    torch.testing.assert_close(ensemble_mean(text[:, :1]), F.normalize(text[:, 0], dim=-1))


def test_it_is_the_loop_written_out_over_rows_encoded_one_after_the_other(text: torch.Tensor):
    flat = text.reshape(12, 5)
    expected = [sum(flat[4 * k + p] / flat[4 * k + p].norm() for p in range(4)) / 4 for k in range(3)]
    torch.testing.assert_close(ensemble_mean(flat.unflatten(0, (3, 4))), torch.stack(expected))


def test_neither_the_order_of_prompts_nor_the_length_of_their_vectors_plays_a_part(text: torch.Tensor):
    expected_KC = ensemble_mean(text)
    torch.testing.assert_close(ensemble_mean(text[:, [2, 0, 3, 1]]), expected_KC)
    torch.testing.assert_close(ensemble_mean(text * torch.tensor([1, 20, 0.1, 3])[:, None]), expected_KC)
    torch.testing.assert_close(ensemble_mean(text[[1, 0, 2]]), expected_KC[[1, 0, 2]])


def test_its_gradient_is_that_of_the_numbers(text: torch.Tensor):
    assert torch.autograd.gradcheck(ensemble_mean, text.requires_grad_())


@pytest.mark.parametrize("shape", [(3, 5), (3, 0, 5), (3,)])
def test_anything_but_classes_prompts_width_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected \(classes, prompts, width\)"):
        ensemble_mean(torch.zeros(shape))
