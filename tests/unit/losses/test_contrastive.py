from __future__ import annotations

import pytest
import torch

from raysem.losses.contrastive import symmetric_contrastive_loss


def pairs(num_pairs: int = 7, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_pairs, width, generator=generator), torch.randn(num_pairs, width, generator=generator)


def test_symmetric_loss_of_orthonormal_pairs_has_its_closed_form():
    n, scale = 4, torch.tensor(3.0)
    loss = symmetric_contrastive_loss(torch.eye(n), torch.eye(n), scale)
    torch.testing.assert_close(loss, torch.log(1 + (n - 1) * torch.exp(-scale)))


def test_loss_of_equal_embeddings_is_the_logarithm_of_the_batch_size():
    ones = torch.ones(6, 3)
    torch.testing.assert_close(symmetric_contrastive_loss(ones, ones, torch.tensor(9.0)), torch.log(torch.tensor(6.0)))


def test_loss_agrees_with_its_loop_over_pairs():
    audio_BD, text_BD = pairs()
    scale, n = 2.5, len(audio_BD)
    cosine = [[float(torch.cosine_similarity(a, t, dim=0)) * scale for t in text_BD] for a in audio_BD]
    total = 0.0
    for i in range(n):
        total -= cosine[i][i] - float(torch.tensor(cosine[i]).logsumexp(0))
        total -= cosine[i][i] - float(torch.tensor([cosine[j][i] for j in range(n)]).logsumexp(0))
    loss = symmetric_contrastive_loss(audio_BD, text_BD, torch.tensor(scale))
    assert float(loss) == pytest.approx(total / (2 * n), rel=1e-5)


def test_order_of_pairs_lengths_and_roles_do_not_matter():
    audio_BD, text_BD = pairs()
    scale = torch.tensor(4.0)
    loss = symmetric_contrastive_loss(audio_BD, text_BD, scale)
    order = torch.randperm(len(audio_BD), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(symmetric_contrastive_loss(audio_BD[order], text_BD[order], scale), loss)
    torch.testing.assert_close(symmetric_contrastive_loss(7 * audio_BD, 0.1 * text_BD, scale), loss)
    torch.testing.assert_close(symmetric_contrastive_loss(text_BD, audio_BD, scale), loss)


def test_loss_is_in_fp32_under_autocast_and_for_half_inputs():
    audio_BD, text_BD = pairs()
    scale = torch.tensor(50.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = symmetric_contrastive_loss(audio_BD, text_BD, scale)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, symmetric_contrastive_loss(audio_BD, text_BD, scale), rtol=0, atol=0)
    assert symmetric_contrastive_loss(audio_BD.bfloat16(), text_BD.bfloat16(), scale).dtype == torch.float32


def test_inputs_that_do_not_pair_up_are_named():
    with pytest.raises(ValueError, match=r"audio \(3, 5\) and text \(4, 5\)"):
        symmetric_contrastive_loss(torch.ones(3, 5), torch.ones(4, 5), torch.tensor(1.0))
