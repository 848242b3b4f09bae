from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from raysem.errors import DataError
from raysem.training.checkpoints import CheckpointFolder, load_trained_state, trained_state


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def save(folder: CheckpointFolder, step: int, best_step: int | None = None) -> None:
    tensors = {"optimizer": {"state": {0: {"exp_avg": torch.full((2,), float(step))}}}}
    folder.save_step(step, network(step), tensors=tensors, state={"best_step": best_step})


def test_what_is_read_is_what_was_written_without_the_frozen_part(tmp_path: Path):
    folder = CheckpointFolder(str(tmp_path))
    save(folder, 7)
    found = folder.latest()
    assert found is not None
    assert (found.step, found.state) == (7, {"step": 7, "best_step": None})
    assert set(found.weights) == set(trained_state(network()))
    assert not any(name.startswith("0.") for name in found.weights)
    torch.testing.assert_close(found.tensors["optimizer"]["state"][0]["exp_avg"], torch.tensor([7.0, 7.0]))
    model = network()
    load_trained_state(model, found.weights, "here")
    assert all(torch.equal(a, b) for a, b in zip(model[2].parameters(), network(7)[2].parameters(), strict=True))


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path):
    assert CheckpointFolder(str(tmp_path / "absent")).latest() is None


def test_a_checkpoint_that_was_cut_short_or_changed_is_passed_over(tmp_path: Path):
    folder = CheckpointFolder(str(tmp_path), keep_last=5)
    for step in (1, 2, 3):
        save(folder, step)
    (tmp_path / "step_00000003" / "complete.json").unlink()
    weights = tmp_path / "step_00000002" / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    found = folder.latest()
    assert found is not None
    assert found.step == 1
    save(folder, 3)  # written anew over the remains
    assert folder.latest().step == 3  # type: ignore[union-attr]


def test_the_last_few_are_kept_and_the_best_ones_that_they_refer_to(tmp_path: Path):
    folder = CheckpointFolder(str(tmp_path), keep_last=2)
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 3)):
        if step == best:
            folder.save_best(step, network(step), {"metrics": {"loss": 1.0}})
        save(folder, step, best_step=best)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best_00000003", "step_00000004", "step_00000005"]
    # A best one that no checkpoint knows yet stays too, until the next checkpoint is written.
    folder.save_best(6, network(6), {"metrics": {}})
    assert folder.best(6).weights.keys() == trained_state(network()).keys()
    assert folder.best(3).step == 3
    save(folder, 7, best_step=6)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best_00000003", "best_00000006", "step_00000005", "step_00000007"
    ]  # fmt: skip


def test_weights_of_another_model_are_refused_with_their_keys(tmp_path: Path):
    weights = dict(trained_state(network()))
    weights["head.weight"] = weights.pop("2.weight")
    weights["2.bias"] = torch.zeros(3)
    with pytest.raises(
        DataError, match=r"missing \['2.weight'\], left over \['head.weight'\], other shape \['2.bias'\]"
    ):
        load_trained_state(network(), weights, str(tmp_path))


def test_tied_weights_are_written_whole(tmp_path: Path):
    model = network()
    model.append(nn.Linear(4, 2))
    model[3].weight = model[2].weight
    folder = CheckpointFolder(str(tmp_path))
    folder.save_best(1, model, {})
    assert {"2.weight", "3.weight"} <= folder.best(1).weights.keys()
