from __future__ import annotations

import math

import pytest
import torch

from raysem.losses.contrastive import symmetric_contrastive_loss
from raysem.losses.soft_label import SoftLabelForm, soft_label_loss, soft_label_targets

FORMS: list[SoftLabelForm] = ["raw", "row_normalised", "softmax"]


def embeddings(count: int, seed: int, num_pairs: int = 6, width: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_pairs, width, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_weight_zero_is_the_contrastive_loss(form: SoftLabelForm):
    audio_BD, text_BD, teacher_audio_BD, teacher_text_BD = embeddings(4, seed=0)
    scale = torch.tensor(5.0)
    targets = soft_label_targets(teacher_audio_BD, teacher_text_BD, weight=0.0, form=form)
    loss = soft_label_loss(audio_BD, text_BD, scale, targets)
    torch.testing.assert_close(loss, symmetric_contrastive_loss(audio_BD, text_BD, scale))


def test_targets_of_two_clips_have_their_closed_forms():
    audio_BD = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosine 0.6
    text_BD = torch.tensor([[2.0, 0.0], [-3.0, 0.0]])  # cosine -1, clamped to 0
    raw = soft_label_targets(audio_BD, text_BD, weight=0.3, form="raw")
    torch.testing.assert_close(raw.audio_to_text_BB, torch.tensor([[1.0, 0.18], [0.18, 1.0]]))
    torch.testing.assert_close(raw.text_to_audio_BB, torch.eye(2))
    assert float(raw.row_mass_audio) == pytest.approx(1.18)
    assert float(raw.row_mass_text) == pytest.approx(1.0)
    normalised = soft_label_targets(audio_BD, text_BD, weight=0.3, form="row_normalised")
    torch.testing.assert_close(normalised.audio_to_text_BB[0], torch.tensor([1.0, 0.18]) / 1.18)
    assert float(normalised.row_mass_audio) == pytest.approx(1.18)  # of the raw target, whatever the form
    assert float(normalised.true_pair_share) == pytest.approx((1 / 1.18 + 1) / 2)
    softmax = soft_label_targets(audio_BD, text_BD, weight=0.3, form="softmax", softmax_temperature=0.1)
    other = 0.3 / (1 + math.exp(4))
    torch.testing.assert_close(softmax.audio_to_text_BB[0], torch.tensor([1 - other, other]))


@pytest.mark.parametrize("form", ["row_normalised", "softmax"])
def test_normalised_targets_are_distributions(form: SoftLabelForm):
    targets = soft_label_targets(*embeddings(2, seed=1), weight=0.4, form=form)
    for target_BB in (targets.audio_to_text_BB, targets.text_to_audio_BB):
        torch.testing.assert_close(target_BB.sum(dim=1), torch.ones(6))
        assert (target_BB >= 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_loss_agrees_with_its_loop_over_entries(form: SoftLabelForm):
    audio_BD, text_BD, teacher_audio_BD, teacher_text_BD = embeddings(4, seed=2)
    targets = soft_label_targets(teacher_audio_BD, teacher_text_BD, weight=0.3, form=form)
    scale, n, total = 3.0, len(audio_BD), 0.0
    cosine_BB = torch.nn.functional.cosine_similarity(audio_BD[:, None], text_BD[None], dim=-1) * scale
    for logits_BB, target_BB in ((cosine_BB, targets.audio_to_text_BB), (cosine_BB.T, targets.text_to_audio_BB)):
        for i in range(n):
            for j in range(n):
                y = float(target_BB[i, j])
                if y > 0:
                    total += y * (math.log(y) - float(logits_BB[i, j] - logits_BB[i].logsumexp(0))) / n
    loss = soft_label_loss(audio_BD, text_BD, torch.tensor(scale), targets)
    assert float(loss) == pytest.approx(total / 2, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_opposite_embeddings_give_a_finite_loss_and_gradient(form: SoftLabelForm):
    teacher_BD = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    targets = soft_label_targets(teacher_BD, teacher_BD, weight=0.3, form=form)
    audio_BD = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = soft_label_loss(audio_BD, teacher_BD, torch.tensor(100.0), targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(audio_BD.grad).all()


def test_no_gradient_reaches_the_teacher():
    audio_BD, text_BD, teacher_audio_BD, teacher_text_BD = (e.requires_grad_() for e in embeddings(4, seed=3))
    targets = soft_label_targets(teacher_audio_BD, teacher_text_BD, weight=0.3)
    soft_label_loss(audio_BD, text_BD, torch.tensor(2.0), targets).backward()
    assert audio_BD.grad is not None
    assert teacher_audio_BD.grad is None
    assert teacher_text_BD.grad is None


def test_order_of_pairs_and_lengths_of_embeddings_do_not_matter():
    tensors = embeddings(4, seed=4)
    scale = torch.tensor(2.0)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))

    def loss(audio_BD, text_BD, teacher_audio_BD, teacher_text_BD):
        targets = soft_label_targets(teacher_audio_BD, teacher_text_BD, weight=0.3, form="row_normalised")
        return soft_label_loss(audio_BD, text_BD, scale, targets)

    torch.testing.assert_close(loss(*(tensor[order] for tensor in tensors)), loss(*tensors))
    torch.testing.assert_close(loss(*(3 * tensor for tensor in tensors)), loss(*tensors))


def test_row_mass_grows_as_the_paper_s_trap_says():
    # 128 clips of mean cosine 0.5: a common direction and one of its own each.
    n = 128
    teacher_BD = torch.cat([torch.eye(n), torch.ones(n, 1)], dim=1)
    targets = soft_label_targets(teacher_BD, teacher_BD, weight=0.3)
    assert float(targets.row_mass_audio) == pytest.approx(1 + 0.3 * 127 * 0.5, rel=1e-4)
    assert float(targets.true_pair_share) == pytest.approx(1 / (1 + 0.3 * 127 * 0.5), rel=1e-4)


def test_wrong_inputs_are_named():
    ones = torch.ones(3, 2)
    with pytest.raises(ValueError, match="weight must lie"):
        soft_label_targets(ones, ones, weight=1.5)
    with pytest.raises(ValueError, match="form must be"):
        soft_label_targets(ones, ones, weight=0.5, form="normalised")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="softmax_temperature must be positive"):
        soft_label_targets(ones, ones, weight=0.5, softmax_temperature=0)
    with pytest.raises(ValueError, match="teacher embeddings must pair up"):
        soft_label_targets(ones, torch.ones(4, 2), weight=0.5)
    targets = soft_label_targets(ones, ones, weight=0.5)
    with pytest.raises(ValueError, match="same global batch"):
        soft_label_loss(torch.ones(6, 2), torch.ones(6, 2), torch.tensor(1.0), targets)
