"""Two gloo ranks equal one process on the joined batch: losses, gradients, batch statistics, whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CAPTIONS, CROP_SAMPLES, TinyNetwork, run_tiny, tiny_settings, write_data
from torch.nn.parallel import DistributedDataParallel
from two_ranks import on_two_ranks

from raysem.errors import ConfigError
from raysem.losses.gather import gather, gather_with_gradient
from raysem.training.batch_norm import normalise_over_ranks
from raysem.training.context import LocalContext
from raysem.training.loader import ClipBatch
from raysem.training.objective import ObjectiveSettings, build_objective
from raysem.training.plan import PlannedRows

OBJECTIVES = [
    ObjectiveSettings(),
    ObjectiveSettings(soft_label_weight=0.3, soft_label_form="raw"),
    ObjectiveSettings(soft_label_weight=0.3, soft_label_form="row_normalised"),
    ObjectiveSettings(soft_label_weight=0.3, soft_label_form="softmax"),
]
CPU = torch.device("cpu")


def joined_batch() -> ClipBatch:
    waveform_BT = torch.randn(8, CROP_SAMPLES, generator=torch.Generator().manual_seed(0))
    captions = [f"{CAPTIONS[i % 5]} {i}" for i in range(8)]
    texts = [{caption: 1.0} for caption in captions]
    return ClipBatch(waveform_BT * torch.arange(1, 9)[:, None], texts, [str(i) for i in range(8)], 0)


def losses_and_gradients(settings: ObjectiveSettings, rank: int, world_size: int, text_trained: bool) -> dict[str, Any]:
    model = TinyNetwork(dropout=0.0, text_trained=text_trained)
    model.tagging_head.requires_grad_(False)
    objective = build_objective(model, settings, CPU, load_teacher=lambda: TinyNetwork(seed=9))
    normalise_over_ranks(model, CPU)
    if world_size > 1:
        objective.network = DistributedDataParallel(objective.network)
    batch = joined_batch()
    mine = slice(rank, None, world_size)
    measured = objective.losses(
        ClipBatch(batch.waveform_BT[mine], batch.texts[mine], batch.clip_ids[mine], batch.source)
    )
    sum(measured.losses.values()).backward()
    return {
        "losses": {name: float(value.detach()) for name, value in (measured.losses | measured.diagnostics).items()},
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "statistics": dict(model.norm.named_buffers()),
    }


def all_objectives(rank: int, world_size: int) -> list[dict[str, Any]]:
    return [losses_and_gradients(settings, rank, world_size, trained) for settings in OBJECTIVES
            for trained in (False, True)]  # fmt: skip


def test_losses_and_gradients_of_two_ranks_are_those_of_the_joined_batch(tmp_path: Path):
    alone = all_objectives(0, 1)
    for found in on_two_ranks(all_objectives, tmp_path, 2):
        for one, two in zip(alone, found, strict=True):
            assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
            assert two["gradients"].keys() == one["gradients"].keys()
            assert "logit_scale" in one["gradients"]
            for name, gradient in one["gradients"].items():
                torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-4, atol=1e-6)
            for name, statistic in one["statistics"].items():
                torch.testing.assert_close(two["statistics"][name], statistic, rtol=1e-5, atol=1e-6)


def gathered(rank: int) -> dict[str, torch.Tensor]:
    rows_BD = (torch.arange(6.0).reshape(3, 2) + 10 * rank).requires_grad_()
    everything = gather_with_gradient(rows_BD)
    # Each rank asks for something else: the gradients of both have to arrive.
    (everything * (rank + 1)).sum().backward()
    return {"rows": everything.detach(), "plain": gather(rows_BD), "gradient": rows_BD.grad}


def test_gather_gives_all_rows_and_brings_back_the_gradients_of_all_ranks(tmp_path: Path):
    expected = torch.cat([torch.arange(6.0).reshape(3, 2), torch.arange(6.0).reshape(3, 2) + 10])
    for found in on_two_ranks(gathered, tmp_path):
        torch.testing.assert_close(found["rows"], expected)
        torch.testing.assert_close(found["plain"], expected)
        torch.testing.assert_close(found["gradient"], torch.full((3, 2), 3.0))


def test_gather_without_a_group_is_the_identity():
    rows_BD = torch.ones(2, 2, requires_grad=True)
    assert gather_with_gradient(rows_BD) is rows_BD
    assert gather(rows_BD) is rows_BD


def train_two_ways(rank: int, data: str, output: str) -> list[Any]:
    results = []
    for name, settings in (("plain", tiny_settings()), ("parts", tiny_settings(accumulation=2))):
        model, result = run_tiny(
            Path(output, name), data=Path(data), settings=settings, context=LocalContext.current("cpu"),
            model=TinyNetwork(dropout=0.0), objective=ObjectiveSettings(soft_label_weight=0.3, replay_probability=0.4),
        )  # fmt: skip
        results.append((model.state_dict(), result))
    return results


def test_a_run_of_two_ranks_is_the_run_of_one_process(tmp_path: Path):
    data = write_data(tmp_path / "data")
    alone = train_two_ways(0, str(data), str(tmp_path / "alone"))
    for found in on_two_ranks(train_two_ways, tmp_path / "ranks", str(data), str(tmp_path / "two")):
        for (one, result_one), (two, result_two) in zip(alone, found, strict=True):
            for name, tensor in one.items():
                torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
            assert result_two.best_metrics == pytest.approx(result_one.best_metrics, rel=1e-3)
            assert result_two.best_step == result_one.best_step
            assert result_two.clips_loaded == result_one.clips_loaded == 64


def unequal_shares(rank: int, data: str, output: str) -> str:
    try:
        run_tiny(
            Path(output), data=Path(data), settings=tiny_settings(batch_size=9), context=LocalContext.current("cpu")
        )
    except ConfigError as error:
        return str(error)
    return ""


def test_a_batch_that_two_workers_cannot_share_is_refused(tmp_path: Path):
    data = write_data(tmp_path / "data")
    for message in on_two_ranks(unequal_shares, tmp_path / "ranks", str(data), str(tmp_path / "out")):
        assert "training.batch_size: 9" in message


def test_rows_of_the_ranks_are_the_global_batch():
    rows = PlannedRows(torch.arange(12).numpy(), torch.zeros(12).numpy())
    assert rows.part_of_rank(1, 2, 1, 2).rows_B.tolist() == [7, 9, 11]
