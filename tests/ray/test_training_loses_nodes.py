"""Training on a cluster whose nodes come and go: announced, unannounced, and with as many workers as there is room.

The cluster is one of its own, of processes of this machine; the drivers are processes, too.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import node_cluster
import pytest
import torch
from head_node import ROOT
from held_training import HeldTraining, Hold, undisturbed
from node_cluster import NodeCluster, wait_for
from tiny_student import spec_settings
from two_ranks import on_two_ranks

from raysem.models.checkpoint import load_model
from raysem.training.ray_worker import WorkerSettings
from raysem.training.spec import TrainingSpec, train_in_process

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 12


@pytest.fixture(scope="module")
def cluster() -> Iterator[NodeCluster]:
    path = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    quick = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    }
    with node_cluster.started({"PYTHONPATH": path, **quick}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> dict[str, Any]:
    settings = spec_settings(tmp_path_factory.mktemp("pairs"), bert_folder)
    changed = {"steps": STEPS, "evaluate_every_steps": 4, "checkpoint_every_steps": 100}
    return settings | {"training": settings["training"].model_copy(update=changed)}


def held(folder: Path, settings: dict[str, Any], *holds: Hold, **training: Any) -> HeldTraining:
    changed = settings["training"].model_copy(update=training)
    spec = TrainingSpec(output=str(folder / "out"), **settings | {"training": changed})
    return HeldTraining(spec, str(folder), holds)


def have_nodes(cluster: NodeCluster, count: int) -> None:
    """So many nodes of one CPU, no more and no fewer."""
    live = sorted(cluster.live_nodes())
    for node in live[count:]:
        cluster.kill_node(node)
    for _ in range(count - len(live)):
        cluster.add_node(cpus=1)
    wait_for(lambda: len(cluster.live_nodes()) == count, f"{count} nodes")


@contextmanager
def driver(cluster: NodeCluster, training: HeldTraining, workers: WorkerSettings) -> Iterator[subprocess.Popen[bytes]]:
    """A driver at work; afterwards it has ended well. What it printed is in `log` of the training's folder."""
    folder = Path(training.folder)
    (folder / "training").write_bytes(pickle.dumps(training))
    (folder / "workers").write_text(workers.model_dump_json())
    command = [sys.executable, "-c", "import held_training; held_training.main()"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, str(folder / "training"), str(folder / "workers")],
            env=cluster.environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    try:
        yield process
        process.wait(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, (folder / "log").read_text()[-5000:]


def wait_at(training: HeldTraining, hold: Hold, process: subprocess.Popen[bytes]) -> list[str]:
    """The nodes of the ranks that wait there."""

    def there() -> bool:
        assert process.poll() is None, (Path(training.folder) / "log").read_text()[-5000:]
        return bool(training.held(hold))

    wait_for(there, f"the workers at {hold}, see {training.folder}/log")
    return training.held(hold)


def metrics(output: Path, kind: str) -> list[dict[str, float]]:
    records = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == kind]


def assert_same_run(found: Path, expected: Path) -> None:
    """The same weights to the bit, and the same metrics, each step once."""
    weights = load_model(str(expected / "model")).state_dict()
    for name, tensor in load_model(str(found / "model")).state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    untimed = [
        [
            {name: value for name, value in record.items() if name != "clips_per_second"}
            for kind in ("train", "held_out")
            for record in metrics(output, kind)
        ]
        for output in (found, expected)
    ]
    assert untimed[0] == untimed[1]
    assert [record["step"] for record in metrics(found, "train")] == list(range(1, STEPS + 1))


def test_a_group_that_grows_and_shrinks_has_the_losses_of_one_worker(
    cluster: NodeCluster, settings: dict[str, Any], tmp_path: Path
):
    # Dropout draws by rank; all else is the same however many ranks share a batch.
    model = dict.fromkeys(("embedding_dropout", "block_dropout", "projection_dropout"), 0.0)
    # At its usual temperature so small a model makes a percent of a rounding error within ten steps.
    alike = settings | {"model": settings["model"].model_copy(update=model | {"temperature": 0.5})}
    one, two = Hold(4, 1, "killed"), Hold(8, 2, "preempted")
    training = held(tmp_path, alike, one, two, checkpoint_every_steps=2)
    expected = TrainingSpec(output=str(tmp_path / "alone"), **alike)
    train_in_process(expected, device="cpu")
    have_nodes(cluster, 1)
    with driver(cluster, training, WorkerSettings(num_workers=2, min_workers=1, resize_seconds=1)) as process:
        wait_at(training, one, process)
        cluster.add_node(cpus=1)
        nodes = wait_at(training, two, process)
        assert len(set(nodes)) == 2
        cluster.drain_node(nodes[0])
    done = training.steps()
    assert done == [(step, 1) for step in range(4)] + [(step, 2) for step in range(4, 9)] + [
        (step, 1) for step in range(9, STEPS)
    ]
    for kind, names in (("train", ("contrastive", "logit_scale", "learning_rate")), ("held_out", ("held_out_loss",))):
        lines, others = (metrics(Path(spec.output), kind) for spec in (training.spec, expected))
        assert [line["step"] for line in lines] == [line["step"] for line in others]
        for name in names:
            found, wanted = ([line[name] for line in each] for each in (lines, others))
            assert found == pytest.approx(wanted, rel=1e-4), (kind, name)


def test_a_group_that_loses_a_machine_with_notice_and_one_without_has_the_weights_of_one_that_lost_none(
    cluster: NodeCluster, settings: dict[str, Any], tmp_path: Path
):
    announced, unannounced = Hold(3, 2, "preempted"), Hold(9, 2, "killed")
    # None is due before the notice: what is saved then is saved because of it.
    training = held(tmp_path, settings, announced, unannounced, checkpoint_every_steps=8)
    expected = TrainingSpec(output=str(tmp_path / "undisturbed"), **settings)
    on_two_ranks(undisturbed, tmp_path / "ranks", expected)
    have_nodes(cluster, 3)
    with driver(cluster, training, WorkerSettings(num_workers=2, max_failures=1)) as process:
        drained = wait_at(training, announced, process)[0]
        cluster.drain_node(drained)
        killed = wait_at(training, unannounced, process)[0]
        assert killed != drained
        cluster.kill_node(killed)
        cluster.add_node(cpus=1)
    log = (tmp_path / "log").read_text()
    assert "a machine is about to be taken away; saved after step 4, to go on elsewhere" in log
    assert training.steps() == [(step, 2) for step in (*range(9), *range(8, STEPS))]
    assert_same_run(tmp_path / "out", tmp_path / "undisturbed")
    assert drained not in cluster.live_nodes()
