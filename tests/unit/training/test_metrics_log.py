from __future__ import annotations

import json
from pathlib import Path

import pytest

from raysem.training.metrics_log import MetricsLog


@pytest.mark.parametrize("remote", [False, True])
def test_a_resumed_log_drops_the_steps_after_its_checkpoint_and_a_cut_line(tmp_path: Path, remote: bool):
    from raysem import storage

    folder = f"memory://{tmp_path.name}" if remote else str(tmp_path)
    with MetricsLog(folder, from_step=-1, tensorboard=False) as metrics:
        for step in range(5):
            metrics.write("train", step, {"loss": 1 / (step + 1)})
    file = storage.join(folder, "metrics.jsonl")
    storage.write_bytes(file, storage.read_bytes(file) + b'{"step": 5, "kin')
    with MetricsLog(folder, from_step=3, tensorboard=False) as metrics:
        metrics.write("train", 4, {"loss": 9.0})
    records = [json.loads(line) for line in storage.read_bytes(file).decode().splitlines()]
    assert [(record["step"], record["loss"]) for record in records] == [
        (0, 1),
        (1, 1 / 2),
        (2, 1 / 3),
        (3, 1 / 4),
        (4, 9),
    ]


def test_lines_are_on_the_disk_at_once(tmp_path: Path):
    with MetricsLog(str(tmp_path), from_step=-1, tensorboard=False) as metrics:
        metrics.write("held_out", 10, {"recall_at_1": 0.5})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
            "step": 10, "kind": "held_out", "recall_at_1": 0.5
        }  # fmt: skip
