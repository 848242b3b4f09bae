from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import raysem.losses
from raysem.losses.binary import binary_cross_entropy
from raysem.losses.ontology_aware import ontology_aware_bce, ontology_aware_bce_with_logits, ontology_weights

LINE = torch.tensor([[abs(a - b) for a in range(5)] for b in range(5)])


def batch(num_clips: int = 8, *, soft: bool = False, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets_BK = (torch.rand(num_clips, 5, generator=generator) < 0.4).float()
    if soft:
        targets_BK *= torch.rand(num_clips, 5, generator=generator).clamp(min=0.05)
    return torch.rand(num_clips, 5, generator=generator), targets_BK


def slow_weights(targets_BK: torch.Tensor, distances_KK: torch.Tensor, beta: float) -> list[list[float]]:
    """The formula entry by entry, in double precision and with the paper's division by the longest distance."""
    y, longest = targets_BK.double().tolist(), float(distances_KK.max())
    rows = []
    for row in y:
        v = [
            min(
                (
                    row[t] * (float(distances_KK[c, t]) / longest) ** beta
                    for t in range(len(row))
                    if row[t] > 0 and t != c
                ),
                default=0.0,
            )
            for c in range(len(row))
        ]
        v = [value / max(v) if max(v) > 0 else 0.0 for value in v]
        rows.append([1.0 if row[c] > 0 else v[c] for c in range(len(row))])
    mean = sum(map(sum, rows)) / (len(rows) * len(rows[0]))
    return [[value / mean for value in row] for row in rows]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_weights_and_loss_agree_with_their_loops(soft: bool, beta: float):
    probabilities_BK, targets_BK = batch(soft=soft)
    targets_BK[2] = 0  # a clip without labels
    targets_BK[3] = torch.tensor([0.0, 0, 1, 0, 0])  # one label: nothing is near the label itself
    weights = slow_weights(targets_BK, LINE, beta)
    torch.testing.assert_close(
        ontology_weights(targets_BK, LINE, beta=beta), torch.tensor(weights), rtol=1e-5, atol=1e-6
    )
    total = 0.0
    for i, k in np.ndindex(8, 5):
        p, y = float(probabilities_BK[i, k]), float(targets_BK[i, k])
        total += (weights[i][k] + 1) * -(y * math.log(p) + (1 - y) * math.log(1 - p)) / 2 / 40
    assert float(ontology_aware_bce(probabilities_BK, targets_BK, LINE, beta=beta)) == pytest.approx(total, rel=1e-5)


def test_one_clip_by_hand():
    weights = ontology_weights(torch.tensor([[0.0, 1, 0, 0, 0]]), LINE)
    expected = torch.tensor([1 / 3, 1, 1 / 3, 2 / 3, 1])  # distances 1, -, 1, 2, 3; the label itself weighs 1
    torch.testing.assert_close(weights[0], expected / expected.mean())


def test_classes_at_one_distance_give_the_plain_cross_entropy():
    probabilities_BK, targets_BK = batch()
    targets_BK[:, 0] = 1
    loss = ontology_aware_bce(probabilities_BK, targets_BK, 1 - torch.eye(5))
    torch.testing.assert_close(loss, binary_cross_entropy(probabilities_BK, targets_BK))


def test_the_mean_weight_is_one_and_a_farther_class_weighs_more():
    _, targets_BK = batch()
    weights = ontology_weights(targets_BK, LINE)
    assert float(weights.mean()) == pytest.approx(1)
    alone = ontology_weights(torch.tensor([[1.0, 0, 0, 0, 0]]), LINE)[0, 1:]
    assert (alone.diff() > 0).all()


def test_a_soft_label_makes_its_neighbourhood_look_nearer():
    weights = ontology_weights(torch.tensor([[1.0, 0, 0, 0, 0.3], [1.0, 0, 0, 0, 1]]), LINE)
    assert weights[0, 3] < weights[0, 1]  # 0.3 x 1 against 1 x 1
    assert weights[1, 3] == weights[1, 1]


def test_order_of_clips_and_classes_and_the_unit_of_distance_do_not_matter():
    probabilities_BK, targets_BK = batch(soft=True)
    loss = ontology_aware_bce(probabilities_BK, targets_BK, LINE)
    clips, classes = torch.randperm(8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 0, 4, 1, 2])
    turned = probabilities_BK[clips][:, classes], targets_BK[clips][:, classes], LINE[classes][:, classes]
    torch.testing.assert_close(ontology_aware_bce(*turned), loss)
    torch.testing.assert_close(ontology_aware_bce(probabilities_BK, targets_BK, LINE / 21), loss)


@pytest.mark.parametrize("unlabelled", [[0], list(range(8))])
def test_clips_without_labels_leave_loss_and_gradient_finite(unlabelled: list[int]):
    probabilities_BK, targets_BK = batch()
    targets_BK[unlabelled] = 0
    probabilities_BK.requires_grad_()
    loss = ontology_aware_bce(probabilities_BK, targets_BK, LINE)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(probabilities_BK.grad).all()
    assert (ontology_weights(targets_BK, LINE)[unlabelled] == 0).all()
    plain = probabilities_BK.detach()[unlabelled].clone().requires_grad_()
    (binary_cross_entropy(plain, targets_BK[unlabelled]) * len(unlabelled) / 8 / 2).backward()
    torch.testing.assert_close(probabilities_BK.grad[unlabelled], plain.grad)


def test_the_gradient_is_the_weighted_derivative_and_reaches_nothing_but_the_probabilities():
    probabilities_BK, targets_BK = batch(soft=True)
    distances_KK = LINE.float().requires_grad_()
    probabilities_BK.requires_grad_()
    targets_BK.requires_grad_()
    ontology_aware_bce(probabilities_BK, targets_BK.detach(), distances_KK).backward()
    p, y = probabilities_BK.detach().double(), targets_BK.detach().double()
    weights = torch.tensor(slow_weights(y, LINE, 1.0), dtype=torch.float64)
    expected = (weights + 1) / 2 * (p - y) / (p * (1 - p)) / 40
    torch.testing.assert_close(probabilities_BK.grad.double(), expected, rtol=1e-4, atol=1e-6)
    assert distances_KK.grad is None


def test_logits_give_the_loss_of_their_sigmoid_and_a_gradient_where_that_has_none():
    probabilities_BK, targets_BK = batch()
    logits_BK = probabilities_BK.logit()
    from_logits = ontology_aware_bce_with_logits(logits_BK, targets_BK, LINE)
    torch.testing.assert_close(from_logits, ontology_aware_bce(probabilities_BK, targets_BK, LINE))
    certain = torch.full((1, 5), 40.0, requires_grad=True)
    ontology_aware_bce_with_logits(certain, torch.tensor([[1.0, 0, 0, 0, 0]]), LINE).backward()
    assert (certain.grad[0, 1:] > 0).all()


@pytest.mark.parametrize("kind", ["random", "informed"])
@pytest.mark.parametrize(("num_clips", "suffix"), [(200, ""), (32, "32")])
def test_the_reference_losses_of_the_authors_are_met(
    reference, audioset_distances, kind: str, num_clips: int, suffix: str
):
    probabilities, targets = reference[f"A_pred_{kind}"][:num_clips], reference["A_target"][:num_clips]
    obce = raysem.losses.ontology_aware_bce(probabilities, targets, audioset_distances)
    assert isinstance(obce, np.ndarray)
    assert obce.dtype == np.float32
    assert float(obce) == pytest.approx(float(reference[f"A_obce{suffix}_{kind}"]), rel=5e-7)
    bce = binary_cross_entropy(torch.from_numpy(probabilities), torch.from_numpy(targets))
    assert float(bce) == pytest.approx(float(reference[f"A_bce{suffix}_{kind}"]), rel=5e-7)


@pytest.mark.parametrize("beta", ["0.5", "1", "2"])
def test_the_reference_weights_of_the_authors_are_met(reference, audioset_distances, beta: str):
    targets = torch.from_numpy(reference["A_target"][:32])
    weights = ontology_weights(targets, audioset_distances, beta=float(beta))
    np.testing.assert_allclose(weights, reference[f"A_obce_weight32_beta{beta}"], rtol=5e-7)


def test_the_reference_gradient_of_the_authors_is_met(reference, audioset_distances):
    probabilities = torch.from_numpy(reference["A_pred_informed"][:8]).requires_grad_()
    ontology_aware_bce(probabilities, torch.from_numpy(reference["A_target"][:8]), audioset_distances).backward()
    np.testing.assert_allclose(probabilities.grad, reference["A_obce8_grad_informed"], rtol=1e-5, atol=1e-9)


def test_published_parts_of_a_batch_would_give_another_loss(reference, audioset_distances):
    """Why the mean is taken over the ranks: 0.258435 as 1 x 32 clips, 0.258525 as 2 x 16."""
    probabilities, targets = reference["A_pred_informed"][:32], reference["A_target"][:32]
    halves = [ontology_aware_bce(probabilities[at], targets[at], audioset_distances)
              for at in (slice(16), slice(16, 32))]  # fmt: skip
    whole = ontology_aware_bce(probabilities, targets, audioset_distances)
    assert abs(float(np.mean(halves)) - float(whole)) > 1e-5


def test_the_loss_is_in_fp32_under_autocast_and_for_half_inputs():
    probabilities_BK, targets_BK = batch()
    outside = ontology_aware_bce(probabilities_BK, targets_BK, LINE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ontology_aware_bce(probabilities_BK, targets_BK, LINE)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)
    assert ontology_aware_bce(probabilities_BK.bfloat16(), targets_BK, LINE).dtype == torch.float32


def test_wrong_inputs_are_named():
    probabilities_BK, targets_BK = batch()
    with pytest.raises(ValueError, match=r"probabilities and targets must be .* got \(8, 4\) and \(8, 5\)"):
        ontology_aware_bce(probabilities_BK[:, :4], targets_BK, LINE)
    with pytest.raises(ValueError, match=r"distances must be \(5, 5\), got \(4, 4\)"):
        ontology_aware_bce(probabilities_BK, targets_BK, LINE[:4, :4])
    with pytest.raises(ValueError, match="logits go to"):
        ontology_aware_bce(probabilities_BK * 3, targets_BK, LINE)
