from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raysem import config, storage
from raysem.errors import ConfigError, UserError
from raysem.runs import preflight
from raysem.runs.curation_preflight import check
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.stages import Stage, run_stages

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 GiB free, 4 cores, no GPU, no cluster."""
    monkeypatch.setattr(storage, "free_bytes", lambda location: 100 * GIB)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def recipe(root: Path | str, **changes: Any) -> CurateAndTrainRecipe:
    content = {"corpora": {"wild": [{"corpus": "clips_table", "root": str(root)}]}}
    return config.build(CurateAndTrainRecipe, config.with_overrides(content, changes.items()))


def checked(tmp_path: Path, *, output: str | None = None, **changes: Any) -> list[str]:
    return check(recipe(tmp_path, **changes), output or str(tmp_path / "out"), [Stage("a", lambda folder: {})])


def test_what_can_work_has_no_warning_and_writes_nothing(tmp_path: Path):
    assert checked(tmp_path, output=str(tmp_path / "not" / "yet")) == []
    assert list(tmp_path.iterdir()) == []


def test_little_free_space_is_told_and_hardly_any_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "free_bytes", lambda location: GIB)
    assert checked(tmp_path) == [f"{tmp_path / 'out'}: only 1.0 GiB are free"]
    monkeypatch.setattr(storage, "free_bytes", lambda location: 100 * 2**20)
    with pytest.raises(UserError, match="100 MiB are free, the least is 200"):
        checked(tmp_path)


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file, expected a folder"):
        checked(tmp_path, output=str(tmp_path / "file" / "out"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=f"--output {tmp_path / 'out'}: {tmp_path} cannot be written"):
        checked(tmp_path)


@pytest.mark.parametrize("part", ["teacher", "held_out", "captions", "evaluation.esc"])
def test_a_root_that_is_not_there_is_named_with_its_part(part: str, tmp_path: Path):
    source = {"corpus": "clips_table", "root": str(tmp_path / "nothing")}
    value: Any = source if part.startswith("evaluation") else [source]
    with pytest.raises(ConfigError, match=rf"^corpora\.{part}: root .*nothing: no such file or folder"):
        checked(tmp_path, **{f"corpora.{part}": value})


@pytest.mark.parametrize("key", ["teacher.location", "teacher.model.audio_weights"])
def test_weights_that_are_not_there_are_named(key: str, tmp_path: Path):
    changes = {"teacher.kind": "clap2022"} if key == "teacher.location" else {}
    with pytest.raises(ConfigError, match=f"^{key}: nothing.pth: no such file or folder"):
        checked(tmp_path, **changes, **{key: "nothing.pth"})


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^teacher\.location: .*: no raysem checkpoint there"):
        checked(tmp_path, teacher={"kind": "raysem", "location": str(tmp_path)})


def test_a_name_on_the_hub_is_no_path(tmp_path: Path):
    assert checked(tmp_path, **{"teacher": {"kind": "hf_clap", "location": "some/model"}}) == []


def test_a_batch_is_shared_evenly_by_the_workers(tmp_path: Path):
    workers = {"cluster": {"training_workers": 3, "training_cpus_per_worker": 1}}
    batches = {"teacher.training.batch_size": 12, "student.training.batch_size": 12}
    assert checked(tmp_path, **workers, **batches) == []
    with pytest.raises(ConfigError, match=r"^student\.training\.batch_size: 16 is no multiple of .* = 3"):
        checked(tmp_path, **workers, **batches | {"student.training.batch_size": 16})
    with pytest.raises(ConfigError, match=r"^teacher\.training\.batch_size: 16 "):
        checked(tmp_path, **workers, **batches | {"teacher.training.batch_size": 16})
    variants = {"a": {}, "b": {"student.training.batch_size": 16}}
    with pytest.raises(ConfigError, match=r"^variants\.b\.student\.training\.batch_size: 16 "):
        checked(tmp_path, **workers, **batches, variants=variants)


def test_a_batch_is_shared_evenly_by_as_many_workers_as_there_may_be(tmp_path: Path):
    few = {"training_workers": 4, "training_cpus_per_worker": 1, "local_cpus": 8}
    batches = {"teacher.training.batch_size": 12, "student.training.batch_size": 12}
    assert checked(tmp_path, cluster=few | {"training_min_workers": 1}, **batches) == []
    batches |= {"student.training.batch_size": 16}
    assert checked(tmp_path, cluster=few, **batches) == []
    reason = (
        r"^student\.training\.batch_size: 16 is no multiple of 3 workers \(cluster\.training_min_workers is 2\) x "
        r"accumulation = 3$"
    )
    with pytest.raises(ConfigError, match=reason):
        checked(tmp_path, cluster=few | {"training_min_workers": 2}, **batches)


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ({"training_on_gpus": True}, "1 GPUs are asked for, this machine has 0"),
        ({"embedding": {"gpus_per_worker": 0.5, "embed_workers": 4}}, "2 GPUs are asked for"),
        ({"training_workers": 8}, "8 x 1 CPUs are asked for, a local Ray has 4"),
        ({"training_workers": 2, "local_cpus": 1}, "a local Ray has 1"),
    ],
)
def test_a_local_ray_has_no_more_than_this_machine(cluster: dict[str, Any], reason: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=reason):
        checked(tmp_path, cluster=cluster)


def test_a_cluster_elsewhere_may_have_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert checked(tmp_path, cluster={"training_workers": 8, "address": "auto"}) == []
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert checked(tmp_path, cluster={"training_workers": 8}) == []


def test_a_finished_run_can_be_looked_at_on_a_smaller_machine(tmp_path: Path):
    stages = [Stage("a", lambda folder: {})]
    output = str(tmp_path / "out")
    run_stages(stages, output)
    assert check(recipe(tmp_path, cluster={"training_workers": 8}), output, stages) == []


def test_an_output_behind_a_uri_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "free_bytes", lambda location: 1 / 0)
    assert checked(tmp_path, output="memory://preflight") == []
    assert preflight.LEAST_FREE_BYTES < preflight.COMFORTABLE_FREE_BYTES
