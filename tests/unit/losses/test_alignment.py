from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from raysem.losses.alignment import AlignmentForm, alignment_loss

FORMS: list[AlignmentForm] = ["label_mean", "per_label"]


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """audio (6, 3), soft targets (6, 4) of which clip 2 has none, label texts (4, 3)."""
    generator = torch.Generator().manual_seed(seed)
    targets_BK = (torch.rand(6, 4, generator=generator) * 2 - 1).clamp(min=0)
    targets_BK[:, 1] += 0.1
    targets_BK[2] = 0
    return torch.randn(6, 3, generator=generator), targets_BK, torch.randn(4, 3, generator=generator)


def slow_loss(audio_BD: torch.Tensor, targets_BK: torch.Tensor, texts_KD: torch.Tensor, form: str) -> torch.Tensor:
    clips = []
    for audio_D, target_K in zip(audio_BD, targets_BK, strict=True):
        if not target_K.sum() > 0:
            continue
        units = [text_D / text_D.norm() for text_D in texts_KD]
        if form == "label_mean":
            mean_D = sum(y * unit_D for y, unit_D in zip(target_K, units, strict=True))
            clips.append(1 - torch.cosine_similarity(audio_D, mean_D, dim=0))
        else:
            apart = [1 - torch.cosine_similarity(audio_D, unit_D, dim=0) for unit_D in units]
            clips.append(sum(y * d for y, d in zip(target_K, apart, strict=True)) / target_K.sum())
    return torch.stack(clips).mean()


@pytest.mark.parametrize("form", FORMS)
def test_it_agrees_with_its_loop_over_clips_and_labels_and_so_does_its_gradient(form: AlignmentForm):
    audio_BD, targets_BK, texts_KD = batch()
    fast, slow = audio_BD.clone().requires_grad_(), audio_BD.clone().double().requires_grad_()
    loss = alignment_loss(fast, targets_BK, texts_KD, form=form)
    expected = slow_loss(slow, targets_BK.double(), texts_KD.double(), form)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad.double(), slow.grad, rtol=1e-5, atol=1e-7)


def test_two_orthogonal_labels_have_their_closed_forms():
    texts_KD, targets_BK = torch.eye(2), torch.ones(1, 2)
    between = torch.tensor([[1.0, 1.0]])
    assert float(alignment_loss(between, targets_BK, texts_KD)) == pytest.approx(0, abs=1e-6)
    assert float(alignment_loss(between, targets_BK, texts_KD, form="per_label")) == pytest.approx(1 - 0.5**0.5)
    assert float(alignment_loss(torch.tensor([[1.0, 0]]), targets_BK, texts_KD)) == pytest.approx(1 - 0.5**0.5)


@pytest.mark.parametrize("form", FORMS)
def test_one_label_is_one_minus_its_cosine_from_zero_to_two(form: AlignmentForm):
    texts_KD = torch.eye(2)
    for audio, expected in (([3.0, 0], 0.0), ([0.0, 1], 1.0), ([-2.0, 0], 2.0)):
        loss = alignment_loss(torch.tensor([audio]), torch.tensor([[1.0, 0]]), texts_KD, form=form)
        assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_lengths_orders_and_the_sum_of_labels_do_not_matter(form: AlignmentForm):
    audio_BD, targets_BK, texts_KD = batch()
    loss = alignment_loss(audio_BD, targets_BK, texts_KD, form=form)
    clips, classes = torch.tensor([3, 0, 5, 2, 1, 4]), torch.tensor([2, 0, 3, 1])
    turned = audio_BD[clips], targets_BK[clips][:, classes], texts_KD[classes]
    torch.testing.assert_close(alignment_loss(*turned, form=form), loss)
    torch.testing.assert_close(alignment_loss(5 * audio_BD, targets_BK / 3, 0.1 * texts_KD, form=form), loss)


@pytest.mark.parametrize("form", FORMS)
def test_a_clip_without_labels_changes_nothing_and_gets_no_gradient(form: AlignmentForm):
    audio_BD, targets_BK, texts_KD = batch()
    audio_BD.requires_grad_()
    loss = alignment_loss(audio_BD, targets_BK, texts_KD, form=form)
    loss.backward()
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(loss, alignment_loss(audio_BD[kept], targets_BK[kept], texts_KD, form=form))
    assert (audio_BD.grad[2] == 0).all()
    assert (audio_BD.grad[kept] != 0).any(dim=1).all()


def test_a_batch_without_labels_has_the_loss_zero():
    audio_BD = torch.randn(3, 2, requires_grad=True)
    loss = alignment_loss(audio_BD, torch.zeros(3, 4), torch.randn(4, 2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert (audio_BD.grad == 0).all()


def test_labels_that_cancel_out_stay_finite():
    audio_BD = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = alignment_loss(audio_BD, torch.ones(1, 2), torch.tensor([[1.0, 0], [-1.0, 0]]))
    loss.backward()
    assert float(loss.detach()) == 1
    assert torch.isfinite(audio_BD.grad).all()


def test_one_step_down_the_gradient_brings_the_clip_nearer():
    audio_BD, targets_BK, texts_KD = batch()
    before = alignment_loss(audio_BD.requires_grad_(), targets_BK, texts_KD)
    before.backward()
    after = alignment_loss(audio_BD.detach() - 0.1 * audio_BD.grad, targets_BK, texts_KD)
    assert after < before


def test_the_loss_is_in_fp32_under_autocast():
    audio_BD, targets_BK, texts_KD = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = alignment_loss(audio_BD, targets_BK, texts_KD)
    torch.testing.assert_close(inside, alignment_loss(audio_BD, targets_BK, texts_KD), rtol=0, atol=0)
    projected_BD = F.linear(audio_BD, torch.eye(3)).bfloat16()
    assert alignment_loss(projected_BD, targets_BK, texts_KD).dtype == torch.float32


def test_wrong_inputs_are_named():
    audio_BD, targets_BK, texts_KD = batch()
    with pytest.raises(ValueError, match="form must be one of label_mean, per_label, got 'mean'"):
        alignment_loss(audio_BD, targets_BK, texts_KD, form="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must fit, got \(6, 3\), \(6, 4\) and \(4, 2\)"):
        alignment_loss(audio_BD, targets_BK, texts_KD[:, :2])
    with pytest.raises(ValueError, match=r"must fit, got \(5, 3\)"):
        alignment_loss(audio_BD[:5], targets_BK, texts_KD)
