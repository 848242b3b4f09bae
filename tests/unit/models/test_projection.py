from __future__ import annotations

import torch

from raysem.models.projection import Projection


def test_projection_is_its_equation():
    torch.manual_seed(0)
    projection, embedding_BW = Projection(7, 5).eval(), torch.randn(3, 7)
    weights = projection.state_dict()
    assert set(weights) == {"linear1.weight", "linear2.weight", "layer_norm.weight", "layer_norm.bias"}
    first_BD = embedding_BW @ weights["linear1.weight"].T
    gelu_BD = first_BD * 0.5 * (1 + torch.erf(first_BD / 2**0.5))
    sum_BD = first_BD + gelu_BD @ weights["linear2.weight"].T
    centred_BD = sum_BD - sum_BD.mean(1, keepdim=True)
    expected_BD = centred_BD / (sum_BD.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(projection(embedding_BW), expected_BD)


def test_dropout_falls_on_the_second_branch_only():
    projection = Projection(4, 6, dropout=0.999999).train()
    embedding_BW = torch.randn(2, 4)
    expected_BD = projection.layer_norm(projection.linear1(embedding_BW))
    torch.testing.assert_close(projection(embedding_BW), expected_BD)
