"""The Ray Train edge: one worker equals the process without Ray, two workers train, a dead worker resumes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_student import spec_settings

from raysem import tables
from raysem.errors import ConfigError, DataError, StageError, StorageError
from raysem.models.checkpoint import load_model
from raysem.training import ray_worker
from raysem.training.objective import ObjectiveSettings
from raysem.training.ray_worker import WorkerSettings, _own_interrupt, run_training
from raysem.training.spec import TrainingSpec, train_in_process

pytestmark = pytest.mark.ray

WORKER = WorkerSettings(cpus_per_worker=0.5, max_failures=0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> dict[str, Any]:
    """A spec without its output: a CLAP of a few kilobytes on 24 clips of a second."""
    return spec_settings(tmp_path_factory.mktemp("pairs"), bert_folder)


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    return load_model(str(output / "model")).state_dict()


def steps_of(output: Path) -> list[tuple[str, int]]:
    return [(r["kind"], r["step"]) for r in map(json.loads, (output / "metrics.jsonl").read_text().splitlines())]


def test_one_worker_gives_the_bits_of_the_process_without_ray(settings: dict[str, Any], tmp_path: Path):
    alone = train_in_process(TrainingSpec(output=str(tmp_path / "alone"), **settings), device="cpu")
    found = run_training(TrainingSpec(output=str(tmp_path / "ray"), **settings), WORKER)
    expected = weights_of(tmp_path / "alone")
    for name, tensor in weights_of(tmp_path / "ray").items():
        assert torch.equal(tensor, expected[name]), name
    assert found.history == alone.history
    assert found.best_step == alone.best_step
    assert found.model == str(tmp_path / "ray" / "model")
    assert steps_of(tmp_path / "ray") == steps_of(tmp_path / "alone")
    assert sorted(p.name for p in (tmp_path / "ray").iterdir()) == [
        "metrics.jsonl", "model", "rejects.parquet", "result.json"
    ]  # fmt: skip


@pytest.mark.fault
def test_a_student_of_two_workers_survives_the_death_of_one(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train_in_process(TrainingSpec(output=str(tmp_path / "teacher"), **settings), device="cpu")
    student = settings | {
        "model": None,
        "initial_model": str(tmp_path / "teacher" / "model"),
        "replay": settings["held_out"],
        "objective": ObjectiveSettings(soft_label_weight=0.3, replay_probability=0.5, soft_label_form="softmax"),
    }
    spec = TrainingSpec(output=str(tmp_path / "student"), name="student", **student)
    marker, train_worker = tmp_path / "died", ray_worker._train_worker

    def dies_once(config: dict[str, Any]) -> Any:
        import ray.train

        from raysem.training import loop

        step = loop._Run._step

        def dying_step(self: Any, parts: Any) -> None:
            if self._done == 5 and ray.train.get_context().get_world_rank() == 1 and not marker.exists():
                marker.touch()
                os._exit(1)
            step(self, parts)

        loop._Run._step = dying_step  # type: ignore[method-assign]
        return train_worker(config)

    monkeypatch.setattr(ray_worker, "_train_worker", dies_once)
    result = run_training(spec, WorkerSettings(num_workers=2, cpus_per_worker=0.5, max_failures=1))
    assert marker.exists()
    assert result.steps == 6
    assert result.clips_loaded == 48
    steps = steps_of(tmp_path / "student")
    assert steps == sorted(steps, key=lambda kind_and_step: kind_and_step[1])
    assert len(steps) == len(set(steps)) == 6 + 3
    assert any(
        not torch.equal(t, weights_of(tmp_path / "teacher")[n]) for n, t in weights_of(tmp_path / "student").items()
    )


def test_ctrl_c_is_the_caller_s_again_after_a_training():
    def taken(*_: Any) -> None: ...

    before = signal.getsignal(signal.SIGINT)
    try:
        with _own_interrupt():
            signal.signal(signal.SIGINT, taken)  # as Ray Train's fit does, which leaves it there
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


def test_errors_of_the_workers_arrive_as_themselves(settings: dict[str, Any], tmp_path: Path):
    broken = tmp_path / "broken.parquet"
    table = pq.read_table(settings["sources"][0]).to_pylist()
    for row in table:
        row["audio"]["bytes"] = b"no audio"
    pq.write_table(pa.Table.from_pylist(table, schema=tables.CLIPS), broken)
    spec = TrainingSpec(output=str(tmp_path / "broken"), **settings | {"sources": (str(broken),)})
    with pytest.raises(StageError, match="clips in a row cannot be used"):
        run_training(spec, WORKER)
    with pytest.raises(ConfigError, match=r"training.batch_size: 8 .* by 3 workers"):
        run_training(spec, WorkerSettings(num_workers=3))
    with pytest.raises(ConfigError, match=r"training.batch_size: 8 .* by 3 workers"):
        run_training(spec, WorkerSettings(num_workers=4, min_workers=2))
    absent = TrainingSpec(output=str(tmp_path / "absent"), **settings | {"sources": (str(tmp_path / "no.parquet"),)})
    with pytest.raises(DataError, match=r"no\.parquet: no such file"):
        run_training(absent, WORKER)


@pytest.mark.fault
def test_a_store_that_fails_on_one_of_two_workers_ends_the_run_at_once_with_its_line(
    settings: dict[str, Any], tmp_path: Path
):
    rows = pq.read_table(settings["sources"][0]).to_pylist()
    rows[5]["audio"] = {"bytes": None, "path": "nosuchscheme://bucket/a.wav"}
    pq.write_table(pa.Table.from_pylist(rows, schema=tables.CLIPS), tmp_path / "pairs.parquet")
    spec = TrainingSpec(output=str(tmp_path / "out"), **settings | {"sources": (str(tmp_path / "pairs.parquet"),)})
    with pytest.raises(StorageError, match=r"^nosuchscheme://bucket/a\.wav: no filesystem for this scheme"):
        run_training(spec, WorkerSettings(num_workers=2, cpus_per_worker=0.5, max_failures=1))
    assert len(steps_of(tmp_path / "out")) == len(set(steps_of(tmp_path / "out")))
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_spec_that_contradicts_itself_is_refused(settings: dict[str, Any]):
    for changes, message in (
        ({"initial_model": "somewhere"}, "either initial_model"),
        ({"model": None}, "either initial_model"),
        ({"objective": ObjectiveSettings(soft_label_weight=0.3)}, "soft labels need a teacher"),
        ({"objective": ObjectiveSettings(replay_probability=0.3)}, "needs replay tables"),
        ({"sources": "one.parquet"}, "sources is a tuple"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainingSpec(output="out", **settings | changes)
    one, two = TrainingSpec(output="a", **settings), TrainingSpec(output="a", **settings | {"seed": 4})
    assert one.run_name == TrainingSpec(output="a", **settings).run_name != two.run_name
