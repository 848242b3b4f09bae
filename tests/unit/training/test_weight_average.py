from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from raysem.errors import DataError
from raysem.training.weight_average import WeightAverage


def normed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def train_step(model: nn.Module, step: int) -> None:
    """Move every trained parameter, and the statistics of batch normalisation."""
    generator = torch.Generator().manual_seed(step)
    model.train()
    with torch.no_grad():
        model(torch.randn(8, 3, generator=generator))
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_average_is_its_recurrence_with_the_warm_up_and_then_the_decay():
    model, decay = normed(), 0.3
    average = WeightAverage(model, decay)
    expected = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    decays = [1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]
    for step, used in enumerate(decays):
        train_step(model, step)
        average.update(model)
        for name, parameter in model.named_parameters():
            expected[name] = used * expected[name] + (1 - used) * parameter.detach().double()
    average.copy_to(model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_weights_that_stand_still_are_their_own_average():
    model = normed()
    average, before = WeightAverage(model, 0.999), state(model)
    for _ in range(50):
        average.update(model)
    average.copy_to(model)
    assert_same(state(model), before)


def test_buffers_are_the_models_own_and_frozen_weights_stay_out():
    model = normed()
    model[2].requires_grad_(False)
    average = WeightAverage(model, 0.9)
    train_step(model, 0)
    average.update(model)
    own = state(model)
    assert sorted(average.tensors()["averages"]) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    with average.applied(model):
        inside = state(model)
    changed = {name for name in own if not torch.equal(own[name], inside[name])}
    assert changed == {"0.bias", "0.weight", "1.bias", "1.weight"}


def test_the_models_own_weights_come_back_to_the_bit_also_after_an_error_and_a_change():
    model = normed()
    average = WeightAverage(model, 0.9)
    train_step(model, 0)
    average.update(model)
    own, averages = state(model), {name: tensor.clone() for name, tensor in average.tensors()["averages"].items()}

    def change_and_die() -> None:
        with average.applied(model):
            assert not torch.equal(model[0].weight, own["0.weight"])
            train_step(model, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change_and_die()
    assert_same(state(model), own)
    assert_same(average.tensors()["averages"], averages)
    average.update(model)  # and it goes on


def test_the_average_is_kept_in_fp32_beside_weights_in_half_precision():
    model = nn.Linear(4, 4).to(torch.bfloat16)
    average = WeightAverage(model, 0.9999)
    start = model.weight.detach().float()
    with torch.no_grad():
        model.weight.add_(0.5)
    moved = model.weight.detach().float()
    for _ in range(3):
        average.update(model)
    kept = average.tensors()["averages"]["weight"]
    assert kept.dtype == torch.float32
    left = (1 / 10) * (2 / 11) * (3 / 12)
    torch.testing.assert_close(kept, left * start + (1 - left) * moved)
    with average.applied(model):
        assert torch.equal(model.weight, kept.to(torch.bfloat16))


def test_a_resumed_average_equals_the_uninterrupted_one_to_the_bit():
    one, two = normed(), normed()
    whole, first = WeightAverage(one, 0.5), WeightAverage(two, 0.5)
    for step in range(12):
        train_step(one, step)
        whole.update(one)
    for step in range(5):
        train_step(two, step)
        first.update(two)
    buffer = io.BytesIO()
    torch.save(first.tensors(), buffer)
    buffer.seek(0)
    second = WeightAverage(normed(seed=1), 0.5)
    second.load(torch.load(buffer, weights_only=True))
    for step in range(5, 12):
        train_step(two, step)
        second.update(two)
    assert second.tensors()["updates"] == whole.tensors()["updates"] == 12
    assert_same(second.tensors()["averages"], whole.tensors()["averages"])


def test_what_does_not_fit_is_named():
    model = normed()
    average = WeightAverage(model, 0.9)
    saved = average.tensors()
    saved["averages"]["3.weight"] = saved["averages"].pop("2.weight")
    saved["averages"]["0.bias"] = torch.zeros(7)
    match = r"missing \['2.weight'\], left over \['3.weight'\], other shape \['0.bias'\]"
    with pytest.raises(DataError, match=match):
        average.load(saved)
    with pytest.raises(ValueError, match="above 0 and below 1, got 1"):
        WeightAverage(model, 1.0)
    model[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"not those of the average: \['0.bias'\]"):
        average.update(model)


def test_nothing_is_taken_in_while_the_average_is_in_the_model():
    model = normed()
    average = WeightAverage(model, 0.9)
    with average.applied(model):
        with pytest.raises(ValueError, match="nothing to take in"):
            average.update(model)
        with pytest.raises(ValueError, match="in the model already"), average.applied(model):
            pass
    average.update(model)
