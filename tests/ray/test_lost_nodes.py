"""A machine that is taken away while it matches or selects: the result is that of a run on this machine alone.

The cluster is one of its own, of processes of this machine; the drivers are processes, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import node_cluster
import pytest
from head_node import ROOT
from held_shards import HELD_SHARD, NUM_SHARDS, Pool, tables_of
from node_cluster import NodeCluster, wait_for

from raysem import storage
from raysem.ledger import Ledger

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[NodeCluster]:
    path = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    with node_cluster.started({"PYTHONPATH": path}) as cluster:
        cluster.add_node(1)
        yield cluster


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool.write(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def whole(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both stages make where nothing is lost."""
    output = tmp_path_factory.mktemp("whole")
    pool.make_plainly(output)
    tables = dict(tables_of(output))
    assert len(tables) == 3 * NUM_SHARDS
    assert all(len(table) for table in tables.values())
    return output


@pytest.mark.parametrize(("stage", "folders"), [("match", ("scored", "match")), ("select", ("select",))])
def test_a_node_that_is_lost_with_a_shard_in_hand_changes_nothing(
    cluster: NodeCluster, pool: Pool, whole: Path, tmp_path: Path, stage: str, folders: tuple[str, ...]
):
    cluster.add_node(1)  # beside the one that is left
    assert len(cluster.live_nodes()) == 2
    note, log = tmp_path / "held", tmp_path / "driver.log"
    arguments = [pool.folder, str(tmp_path), stage, str(whole / "match"), str(note)]
    with log.open("w") as out:
        driver = subprocess.Popen(
            [sys.executable, "-c", "import held_shards; held_shards.main()", *arguments],
            env=cluster.environment, stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def held() -> bool:
        assert driver.poll() is None, log.read_text()
        return note.exists()

    try:
        wait_for(held, "a shard that is held")
        lost, made = note.read_text(), Ledger(str(tmp_path / folders[0]))
        assert lost in cluster.live_nodes()
        assert HELD_SHARD not in made.records()
        cluster.kill_node(lost)
        assert driver.wait(timeout=300) == 0, log.read_text()
    finally:
        driver.kill()
        driver.wait()
    wait_for(lambda: lost not in cluster.live_nodes(), "the cluster to miss its node")
    assert storage.read_json(f"{tmp_path}/counts.json")["shards"] == NUM_SHARDS
    for folder in folders:
        assert dict(tables_of(tmp_path / folder)) == dict(tables_of(whole / folder))
        assert len(Ledger(str(tmp_path / folder)).records(verify=True)) == NUM_SHARDS
