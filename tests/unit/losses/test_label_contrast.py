from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_ranks import on_two_ranks

from raysem.losses.contrastive import symmetric_contrastive_loss
from raysem.losses.gather import gather, gather_with_gradient
from raysem.losses.label_contrast import LabelContrastForm, label_contrastive_loss

FORMS: list[LabelContrastForm] = list(get_args(LabelContrastForm))
CLASS_B = torch.tensor([2, 0, 2, 1, 2, 0])


def rows(seed: int = 0, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, width, generator=generator), torch.randn(6, width, generator=generator)


def written_out(audio_BC: Tensor, text_BC: Tensor, class_B: Tensor, scale: float, form: LabelContrastForm) -> Tensor:
    """The loss entry by entry, in double precision."""
    n = len(class_B)
    logits = [[scale * torch.cosine_similarity(a, t, dim=0) for t in text_BC.double()] for a in audio_BC.double()]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(n):
        own = [j for j in range(n) if class_B[j] == class_B[i]] if form == "multi_positive" else [i]
        for row in (logits[i], [logits[j][i] for j in range(n)]):
            for j in own:
                total = total - (row[j] - torch.stack(row).logsumexp(0)) / len(own) / (2 * n)
    return total


def test_two_classes_of_two_clips_have_their_closed_forms():
    """Cosines are 1 within a class and 0 between them: each row has two equal logits and two zeros."""
    vectors_BC, class_B, scale = torch.eye(3)[[0, 0, 1, 1]], torch.tensor([5, 5, 7, 7]), torch.tensor(3.0)
    expected = torch.log(2 + 2 * torch.exp(-scale))
    for form in FORMS:
        torch.testing.assert_close(label_contrastive_loss(vectors_BC, vectors_BC, class_B, scale, form=form), expected)


@pytest.mark.parametrize("form", FORMS)
def test_loss_agrees_with_its_loop_over_entries(form: LabelContrastForm):
    audio_BC, text_BC = rows()
    loss = label_contrastive_loss(audio_BC, text_BC, CLASS_B, torch.tensor(2.5), form=form)
    assert float(loss) == pytest.approx(float(written_out(audio_BC, text_BC, CLASS_B, 2.5, form)), rel=1e-5)


def test_the_forms_are_equal_where_no_class_repeats_and_differ_where_one_does():
    audio_BC, text_BC = rows()
    scale, distinct_B = torch.tensor(4.0), torch.tensor([3, 9, 1, 0, 5, 4])
    diagonal = label_contrastive_loss(audio_BC, text_BC, distinct_B, scale, form="diagonal")
    torch.testing.assert_close(label_contrastive_loss(audio_BC, text_BC, distinct_B, scale), diagonal)
    torch.testing.assert_close(diagonal, symmetric_contrastive_loss(audio_BC, text_BC, scale))
    repeated = label_contrastive_loss(audio_BC, text_BC, CLASS_B, scale)
    assert abs(float(repeated - diagonal)) > 0.01


def test_the_forms_are_equal_in_value_and_gradient_where_each_class_has_one_text():
    found = []
    for form in FORMS:
        audio_BC, text_KC = (tensor.requires_grad_() for tensor in rows())
        scale = torch.tensor(4.0, requires_grad=True)
        loss = label_contrastive_loss(audio_BC, text_KC[CLASS_B], CLASS_B, scale, form=form)
        found.append((loss, *torch.autograd.grad(loss, (audio_BC, text_KC, scale))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_diagonal_parts_two_clips_between_the_texts_of_their_class_and_multi_positive_leaves_them():
    """All of one class, each clip as close to one text as to the other: nothing is left to learn."""
    text_BC, class_B, scale = torch.eye(2), torch.tensor([4, 4]), torch.tensor(5.0)
    gradients = {}
    for form in FORMS:
        audio_BC = torch.full((2, 2), math.sqrt(0.5), requires_grad=True)
        label_contrastive_loss(audio_BC, text_BC, class_B, scale, form=form).backward()
        gradients[form] = audio_BC.grad
    torch.testing.assert_close(gradients["multi_positive"], torch.zeros(2, 2))
    # Every probability is 1/2 and its target 0 or 1; a row is one of two, and both directions say the same.
    expected = 5.0 / 4 * torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    torch.testing.assert_close(gradients["diagonal"], expected)


def test_multi_positive_is_never_lower_than_the_entropy_of_its_targets_and_reaches_it():
    lowest = (3 * math.log(3) + 2 * math.log(2)) / 6  # classes of 3, 2 and 1 of the 6 clips
    vectors_BC = torch.eye(3)[CLASS_B]
    loss = label_contrastive_loss(vectors_BC, vectors_BC, CLASS_B, torch.tensor(100.0))
    assert float(loss) == pytest.approx(lowest, rel=1e-6)
    for seed in range(20):
        assert float(label_contrastive_loss(*rows(seed), CLASS_B, torch.tensor(0.5 * (seed + 1)))) > lowest
    one_class_B = torch.zeros(6, dtype=torch.long)
    same_BC = torch.ones(6, 4)
    assert float(label_contrastive_loss(same_BC, same_BC, one_class_B, torch.tensor(50.0))) == pytest.approx(
        math.log(6), rel=1e-6
    )


@pytest.mark.parametrize("form", FORMS)
def test_order_of_clips_numbers_of_classes_and_lengths_do_not_matter(form: LabelContrastForm):
    audio_BC, text_BC = rows()
    scale = torch.tensor(4.0)
    loss = label_contrastive_loss(audio_BC, text_BC, CLASS_B, scale, form=form)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    for changed in (
        (audio_BC[order], text_BC[order], CLASS_B[order]),
        (7 * audio_BC, 0.1 * text_BC, CLASS_B),
        (audio_BC, text_BC, 40 - 3 * CLASS_B),
        (text_BC, audio_BC, CLASS_B),
    ):
        torch.testing.assert_close(label_contrastive_loss(*changed, scale, form=form), loss)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_the_finite_differences_of_the_loop(form: LabelContrastForm):
    inputs = [tensor.requires_grad_() for tensor in rows()]
    scale, step = torch.tensor(2.5, requires_grad=True), 1e-6
    label_contrastive_loss(*inputs, CLASS_B, scale, form=form).backward()
    audio_BC, text_BC = (tensor.detach().double() for tensor in inputs)
    for which, tensor in enumerate(inputs):
        numeric = torch.zeros_like(tensor)
        for place in range(tensor.numel()):
            change = torch.zeros(tensor.numel(), dtype=torch.float64)
            change[place] = step
            sides = []
            for sign in (1, -1):
                moved = [audio_BC, text_BC]
                moved[which] = moved[which] + sign * change.view_as(tensor)
                sides.append(written_out(*moved, CLASS_B, 2.5, form))
            numeric.view(-1)[place] = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(tensor.grad, numeric, rtol=1e-3, atol=1e-5)
    above, below = (written_out(audio_BC, text_BC, CLASS_B, 2.5 + sign * step, form) for sign in (1, -1))
    assert float(scale.grad) == pytest.approx(float((above - below) / (2 * step)), rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_are_finite_at_the_largest_scale_for_opposite_vectors(form: LabelContrastForm):
    text_BC = rows()[1]
    audio_BC = (-text_BC).requires_grad_()
    loss = label_contrastive_loss(audio_BC, text_BC, CLASS_B, torch.tensor(100.0), form=form)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(audio_BC.grad).all()


@pytest.mark.parametrize("form", FORMS)
def test_loss_is_in_fp32_under_autocast(form: LabelContrastForm):
    audio_BC, text_BC = rows()
    outside = label_contrastive_loss(audio_BC, text_BC, CLASS_B, torch.tensor(50.0), form=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = label_contrastive_loss(audio_BC, text_BC, CLASS_B, torch.tensor(50.0), form=form)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_wrong_inputs_are_named():
    audio_BC, text_BC = rows()
    scale = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"one integer class per clip, got torch.int64 \(5,\) for audio \(6, 5\)"):
        label_contrastive_loss(audio_BC, text_BC, CLASS_B[:5], scale)
    with pytest.raises(ValueError, match=r"one integer class per clip, got torch\.float32"):
        label_contrastive_loss(audio_BC, text_BC, CLASS_B.float(), scale, form="diagonal")
    for form in FORMS:
        with pytest.raises(ValueError, match=r"audio \(6, 5\) and text \(4, 5\)"):
            label_contrastive_loss(audio_BC, text_BC[:4], CLASS_B, scale, form=form)
    with pytest.raises(ValueError, match="form must be multi_positive or diagonal, got 'supervised'"):
        label_contrastive_loss(audio_BC, text_BC, CLASS_B, scale, form="supervised")  # type: ignore[arg-type]


class Towers(nn.Module):
    """Both towers and the scale; a text differs from clip to clip, as with templates drawn per clip."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.audio, self.text = nn.Linear(7, 4), nn.Linear(6, 4)
        self.log_scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, audio_BW: Tensor, text_BW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.audio(audio_BW), self.text(text_BW), self.log_scale.exp()


def measured(places: list[int], *, in_group: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    audio_BW, text_BW = torch.randn(8, 7, generator=generator), torch.randn(8, 6, generator=generator)
    class_B = torch.tensor([0, 1, 0, 2, 3, 2, 0, 1])  # classes repeat within a rank and across ranks
    found: dict[str, Any] = {}
    for form in FORMS:
        towers = Towers()
        network = DistributedDataParallel(towers) if in_group else towers
        audio_BC, text_BC, scale = network(audio_BW[places], text_BW[places])
        loss = label_contrastive_loss(
            gather_with_gradient(audio_BC), gather_with_gradient(text_BC), gather(class_B[places]), scale, form=form
        )
        loss.backward()
        found[form] = [loss.detach(), *(parameter.grad for parameter in towers.parameters())]
    return found


def on_one_rank(rank: int) -> dict[str, Any]:
    return measured([[0, 1, 2, 3], [4, 5, 6, 7]][rank], in_group=True)


def test_loss_and_gradients_of_two_ranks_are_those_of_the_joined_batch(tmp_path: Path):
    alone = measured(list(range(8)), in_group=False)
    for found in on_two_ranks(on_one_rank, tmp_path):
        for form, values in alone.items():
            for one, two in zip(values, found[form], strict=True):
                torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
