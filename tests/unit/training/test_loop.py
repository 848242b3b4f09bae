from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import NotFiniteAt, StopAt, TinyNetwork, run_tiny, tiny_settings, write_data, write_pairs

from raysem import storage
from raysem.errors import ConfigError, StageError
from raysem.training.context import TrainingError
from raysem.training.objective import ObjectiveSettings
from raysem.training.schedule import ScheduleSettings
from raysem.training.settings import TrainingSettings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "clips_per_second"} for record in records]


def assert_same_bits(one: TinyNetwork, two: TinyNetwork) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


CASES: dict[str, tuple[ObjectiveSettings, dict[str, Any]]] = {
    "contrastive": (ObjectiveSettings(), {}),
    "soft labels, replay, parts": (
        ObjectiveSettings(soft_label_weight=0.3, replay_probability=0.5),
        {"accumulation": 2, "optimizer": "adamw", "weight_decay": 0.1},
    ),
    "bf16, cosine": (
        ObjectiveSettings(),
        {"precision": "bf16", "schedule": ScheduleSettings(kind="cosine", warmup_steps=3)},
    ),
    "fp16, plateau": (
        ObjectiveSettings(),
        {"precision": "fp16", "evaluate_every_steps": 1, "selection_metric": "recall_at_1",
         "schedule": ScheduleSettings(kind="plateau", plateau_patience=1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop_at_step", [1, 5, 8])
def test_a_run_that_was_killed_and_started_again_equals_the_uninterrupted_one(
    data: Path, tmp_path: Path, case: str, stop_at_step: int
):
    objective, changes = CASES[case]
    settings = tiny_settings(**changes)

    def run(name: str, wrap: Callable[[Any], Any] = lambda objective: objective) -> tuple[TinyNetwork, Any]:
        return run_tiny(tmp_path / name, data=data, objective=objective, settings=settings, wrap_objective=wrap)

    whole, result = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", lambda objective: StopAt(objective, stop_at_step * settings.accumulation))
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed, result_resumed = run("killed")
    assert_same_bits(whole, resumed)
    assert without_times(lines(tmp_path / "killed")) == without_times(lines(tmp_path / "whole"))
    assert result_resumed.history == result.history
    assert (result_resumed.best_step, result_resumed.clips_loaded) == (result.best_step, result.clips_loaded)


def test_training_lowers_the_held_out_loss_and_writes_the_best_step(data: Path, tmp_path: Path):
    model, result = run_tiny(tmp_path, data=data, settings=tiny_settings(steps=60, evaluate_every_steps=10))
    losses = {record["step"]: record["held_out_loss"] for record in result.history}
    assert list(losses) == [0, 10, 20, 30, 40, 50, 60]
    assert result.best_step == min(list(losses)[1:], key=losses.__getitem__)
    assert losses[result.best_step] < 0.8 * losses[0]
    written = torch.load(tmp_path / "model" / "model.pt")
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())
    assert not (tmp_path / "checkpoints").exists()
    steps = [(record["kind"], record["step"]) for record in lines(tmp_path)]
    assert len(steps) == len(set(steps))


def test_the_last_step_is_kept_when_asked_for(data: Path, tmp_path: Path):
    best, result = run_tiny(tmp_path / "best", data=data, settings=tiny_settings(learning_rate=0.5))
    last, result_last = run_tiny(tmp_path / "last", data=data, settings=tiny_settings(learning_rate=0.5, keep="last"))
    assert result.best_step == result_last.best_step == 4
    assert not torch.equal(best.hidden.weight, last.hidden.weight)


def test_frozen_and_unreached_parameters_stay_as_they_are(data: Path, tmp_path: Path):
    model, _ = run_tiny(tmp_path, data=data, objective=ObjectiveSettings(soft_label_weight=0.3))
    start = TinyNetwork()
    assert torch.equal(model.text_encoder.letters.weight, start.text_encoder.letters.weight)
    assert torch.equal(model.tagging_head.weight, start.tagging_head.weight)
    assert not torch.equal(model.text_projection.weight, start.text_projection.weight)


def test_a_trained_text_encoder_is_trained(data: Path, tmp_path: Path):
    model, _ = run_tiny(tmp_path, data=data, model=TinyNetwork(text_trained=True))
    assert not torch.equal(model.text_encoder.letters.weight, TinyNetwork().text_encoder.letters.weight)


def test_a_table_read_by_row_group_trains_and_resumes_too(tmp_path: Path):
    data = write_data(tmp_path / "data", row_group_rows=6)

    def run(name: str, wrap: Callable[[Any], Any] = lambda objective: objective) -> TinyNetwork:
        return run_tiny(tmp_path / name, data=data, memory_mib=0, wrap_objective=wrap)[0]

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", lambda objective: StopAt(objective, 6))
    assert_same_bits(whole, run("killed"))


def test_a_loss_that_is_not_finite_stops_before_the_step_and_says_where(data: Path, tmp_path: Path):
    model = TinyNetwork()
    kept: list[dict[str, torch.Tensor]] = []

    class Watching(NotFiniteAt):
        def losses(self, batch: Any) -> Any:
            kept.append({name: tensor.clone() for name, tensor in model.named_parameters()})
            return super().losses(batch)

    with pytest.raises(TrainingError, match=r"step 5: a loss is not finite: contrastive nan .*clips from main-"):
        run_tiny(tmp_path, data=data, model=model, wrap_objective=lambda objective: Watching(objective, 5))
    assert all(torch.equal(tensor, kept[-1][name]) for name, tensor in model.named_parameters())
    assert not (tmp_path / "result.json").exists()


def test_a_finished_run_is_not_run_again_and_another_one_is_refused(data: Path, tmp_path: Path):
    _, result = run_tiny(tmp_path, data=data)
    again = run_tiny(tmp_path, data=data, wrap_objective=lambda objective: StopAt(objective, 1))[1]
    assert again == result
    with pytest.raises(ConfigError, match=r"other settings \(training.learning_rate: 0.01 -> 0.02\)"):
        run_tiny(tmp_path, data=data, settings=tiny_settings(learning_rate=0.02))
    with pytest.raises(ConfigError, match="seed: 3 -> 4"):
        run_tiny(tmp_path, data=data, seed=4)
    assert run_tiny(tmp_path, data=data, settings=tiny_settings(loader_threads=1, cache_mib=0))[1] == result


def test_threads_cache_and_prefetch_do_not_change_a_bit(data: Path, tmp_path: Path):
    one, _ = run_tiny(tmp_path / "one", data=data)
    two, _ = run_tiny(
        tmp_path / "two", data=data, settings=tiny_settings(loader_threads=5, cache_mib=0, prefetch_batches=0)
    )
    assert_same_bits(one, two)


def test_unusable_clips_are_replaced_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    data = write_data(tmp_path / "data", broken=(3, 17))
    settings = tiny_settings(steps=15, max_unusable_share=0.2)
    model, result = run_tiny(tmp_path / "one", data=data, settings=settings)
    assert result.clips_loaded == 120
    assert 4 <= result.clips_unusable <= 12  # each of the two about three times, at times one replaces the other
    assert "undecodable" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        run_tiny(
            tmp_path / "killed", data=data, settings=settings, wrap_objective=lambda objective: StopAt(objective, 11)
        )
    again, result_again = run_tiny(tmp_path / "killed", data=data, settings=settings)
    assert_same_bits(model, again)
    assert result_again.clips_unusable == result.clips_unusable


def test_too_many_unusable_clips_stop_the_run(tmp_path: Path):
    data = write_data(tmp_path / "data", broken=tuple(range(0, 40, 3)))
    with pytest.raises(
        TrainingError, match=r"could not be used against .* max_unusable_share 0.05 allows; here .*main-"
    ):
        run_tiny(tmp_path / "out", data=data, settings=tiny_settings(steps=20))
    all_broken = write_data(tmp_path / "broken", broken=tuple(range(40)))
    with pytest.raises(StageError, match="21 clips in a row cannot be used"):
        run_tiny(tmp_path / "none", data=all_broken)


def test_broken_held_out_clips_are_left_out(data: Path, tmp_path: Path):
    folder = write_data(tmp_path / "data")
    write_pairs(folder / "held_out.parquet", 16, prefix="held", broken=(1, 2, 3))
    _, result = run_tiny(tmp_path / "out", data=folder)
    assert result.best_metrics["pairs"] == 13


def test_progress_is_logged_with_losses_and_time_left(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="raysem")
    run_tiny(tmp_path, data=data, objective=ObjectiveSettings(soft_label_weight=0.3))
    line = next(
        record.getMessage() for record in caplog.records if record.getMessage().startswith("step 2/8 soft_label")
    )
    for word in ("row_mass_audio", "true_pair_share", "contrastive", "logit_scale", "learning_rate", " s left"):
        assert word in line
    assert "held out: held_out_loss" in caplog.text
    assert "parameters that no loss reaches stay as they are: tagging_head.weight, tagging_head.bias" in caplog.text


def test_tensorboard_has_the_curves(data: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = tiny_settings(tensorboard=True)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, data=data, settings=settings, wrap_objective=lambda objective: StopAt(objective, 6))
    run_tiny(tmp_path, data=data, settings=settings)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/contrastive")] == [2, 4, 6, 8]
    assert [event.step for event in events.Scalars("held_out/held_out_loss")] == [0, 4, 8]


def test_torch_s_random_state_and_threads_are_as_before(data: Path, tmp_path: Path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    model = TinyNetwork()
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    run_tiny(tmp_path, data=data, model=model, settings=tiny_settings(torch_threads=threads + 1), objective=None)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="cannot be cut into 3 equal parts"):
        TrainingSettings(batch_size=8, accumulation=3)
    with pytest.raises(ValueError, match="of at least 2 pairs"):
        TrainingSettings(batch_size=4, accumulation=4)


def test_a_run_on_an_object_store_resumes_and_leaves_the_same_files(data: Path, tmp_path: Path):
    settings = tiny_settings(tensorboard=True)
    whole, result = run_tiny(tmp_path, data=data, settings=settings)
    with pytest.raises(KeyboardInterrupt):
        run_tiny("memory://runs/one", data=data, settings=settings, wrap_objective=lambda o: StopAt(o, 6))
    assert storage.list_folders("memory://runs/one/checkpoints")
    resumed, result_resumed = run_tiny("memory://runs/one", data=data, settings=settings)
    assert_same_bits(whole, resumed)
    assert result_resumed.history == result.history
    stored = storage.read_bytes("memory://runs/one/metrics.jsonl").decode().splitlines()
    assert without_times([json.loads(line) for line in stored]) == without_times(lines(tmp_path))
    assert len(storage.list_files("memory://runs/one/tensorboard")) == 2
    assert not storage.list_folders("memory://runs/one/checkpoints")


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(data: Path, tmp_path: Path):
    plain, _ = run_tiny(tmp_path / "plain", data=data, model=TinyNetwork(dropout=0.0))
    compiled, _ = run_tiny(
        tmp_path / "compiled", data=data, model=TinyNetwork(dropout=0.0), settings=tiny_settings(compile=True)
    )
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
