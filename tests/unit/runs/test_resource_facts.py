from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from raysem import config, storage
from raysem.errors import UserError
from raysem.ledger import DoneRecord, Ledger
from raysem.runs import curation_preflight, resource_facts
from raysem.runs.curate_and_train import CurateAndTrain
from raysem.runs.curation_recipe import CurateAndTrainRecipe
from raysem.runs.resource_facts import Facts
from raysem.stages import DONE, Stage

CORPORA = {part: [{"corpus": "synthetic", "part": part}] for part in ("teacher", "held_out", "wild")} | {
    "synthetic": {"teacher_clips": 40},
    "evaluation": {"test": {"corpus": "synthetic", "part": "test"}},
}
CLIPS = {"teacher": 40, "held_out": 10, "wild": 100, "evaluation/test": 20}


class Run:
    """A run on whose output only the corpora are finished."""

    def __init__(self, output: str, **changes: Any):
        content = config.with_overrides({"corpora": CORPORA}, changes.items())
        self.recipe, self.output = config.build(CurateAndTrainRecipe, content), output
        self.stages = {stage.name: stage for stage in CurateAndTrain(self.recipe, output).stages}
        self.finish("captions", captions=60)
        for part, clips in CLIPS.items():
            self.finish(f"corpora/{part}", clips=clips, shards=4)

    def finish(self, name: str, **summary: Any) -> None:
        record = {"summary": summary, "seconds": 1.0, "attempts": 1}
        storage.write_json(storage.join(self.stages[name].folder(self.output), DONE), record)

    @property
    def chosen(self) -> Sequence[Stage]:
        return list(self.stages.values())

    def facts(self) -> Facts:
        return Facts(self.recipe, self.output, self.chosen)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(resource_facts, "clip_shards", lambda folder: [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_what_is_left_is_counted_over_corpora_and_models(tmp_path: Any):
    run = Run(str(tmp_path), **{"teacher.model.embedding_width": 64, "curation.duplicate_similarity": 0.99})
    work = run.facts().work()
    assert (work.clips, work.shards, work.captions, work.embedding_width) == (100, 4, 60, 64)
    assert work.embeddings_left == 60 + 100 + 2 * 20, "captions, pool, and the test set for teacher and student"
    assert (work.matches, work.neighbours, work.exact_neighbours, work.screens) == (True, 10, True, True)
    assert work.crop_samples == run.recipe.teacher.model.crop_samples
    assert [(training.name, training.clips) for training in work.trainings] == [("student", 10), ("teacher", 50)]


def test_what_is_finished_or_not_asked_for_is_not_counted(tmp_path: Any):
    run = Run(str(tmp_path))
    ledger = Ledger(run.stages["embed/wild"].folder(run.output))
    ledger.finish(DoneRecord("shard_00000", 25), {})
    assert run.facts().work().embeddings_left == 60 + 75 + 2 * 20
    run.finish("embed/wild")
    run.finish("match")
    work = run.facts().work()
    assert work.embeddings_left == 60 + 2 * 20
    assert not work.matches
    until_teacher = list(run.stages.values())[: list(run.stages).index("teacher") + 1]
    work = Facts(run.recipe, run.output, until_teacher).work()
    assert (work.embeddings_left, work.matches, work.neighbours, len(work.trainings)) == (0, False, 0, 1)


def test_variants_are_named_by_their_keys(tmp_path: Any):
    run = Run(
        str(tmp_path), variants={"a": {"student.training.cache_mib": 7}, "b": {"student.train_on": "teacher_pairs"}}
    )
    found = {training.name: training for training in run.facts().work().trainings}
    assert found.keys() == {"teacher", "variants.a.student", "variants.b.student"}
    assert found["variants.a.student"].cache_bytes == 7 * 2**20
    assert found["variants.b.student"].clips == 50


def test_of_a_cluster_elsewhere_this_machine_says_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    here = Run(str(tmp_path)).facts().machine()
    assert here.cpus == 4
    assert here.memory_bytes is not None
    assert here.object_store_bytes == 512 * 2**20
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    there = Run(str(tmp_path)).facts().machine()
    assert (there.cpus, there.memory_bytes) == (None, None)
    assert there.free_disk_bytes is not None


def test_a_run_that_cannot_fit_is_refused_before_ray(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    caplog.set_level("INFO", "raysem")
    run = Run(str(tmp_path))
    warnings = curation_preflight.check_resources(run.recipe, run.output, run.chosen)
    assert [line for line in caplog.messages if line.startswith("estimate, disk: 200 embeddings of 4,096 bytes")]
    assert all(isinstance(warning, str) for warning in warnings)
    run.finish("captions", captions=10**9)
    with pytest.raises(UserError, match=r"^--output: take a larger disk.*; cluster\.local_cpus: "):
        curation_preflight.check_resources(run.recipe, run.output, run.chosen)
