"""The stages that leave a model: the teacher, trained or loaded, and the students that start from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysem import storage
from raysem.config import plain
from raysem.curation.ray_shards import run_as_task
from raysem.errors import ConfigError
from raysem.ledger import Ledger
from raysem.runs import roles, teachers
from raysem.runs.cluster import ClusterSettings
from raysem.runs.cluster_training import train_on_cluster
from raysem.runs.curation_recipe import CurateAndTrainRecipe, StudentSettings, TeacherSettings
from raysem.stages import Stage
from raysem.training.spec import TrainingSpec

TEACHER = "teacher"


def teacher_stage(recipe: CurateAndTrainRecipe, output: storage.Location, corpora: Mapping[str, Stage]) -> Stage:
    """The teacher; its folder names the weights in `model.json`.

    Raises:
        ConfigError: it is trained here, and a part that this needs is empty.
    """
    settings = recipe.teacher
    if settings.kind != "train":
        return Stage(
            TEACHER,
            lambda folder: run_as_task(teachers.load, folder, settings),
            settings=teachers.identity(settings),
        )
    for name in ("teacher", "held_out"):
        if name not in corpora:
            raise ConfigError(f"corpora.{name}: is empty, and teacher.kind train needs it")
    inputs = [corpora["teacher"], corpora["held_out"]]

    def run(folder: storage.Location) -> dict[str, Any]:
        spec = teachers.training_spec(recipe, folder, *(roles.clip_shards(stage.folder(output)) for stage in inputs))
        return _train(folder, spec, recipe.cluster)

    return Stage(TEACHER, run, settings=_what_counts(settings, recipe), inputs=inputs)


def student_stage(
    name: str,
    student: CurateAndTrainRecipe,
    output: storage.Location,
    *,
    teacher: Stage,
    pairs: Stage,
    held_out: Stage,
    replay: Stage | None,
) -> Stage:
    """A student on the clips of `pairs` and `replay`, each a part of the corpora or a selection."""

    def files(stage: Stage) -> list[storage.Location]:
        folder = stage.folder(output)
        return roles.clip_shards(folder) if stage.name.startswith("corpora/") else Ledger(folder).files()

    def run(folder: storage.Location) -> dict[str, Any]:
        teachers.require_warm_start(teacher.folder(output))
        spec = teachers.student_spec(
            student, folder, teacher.folder(output), files(pairs), files(replay) if replay else [], files(held_out)
        )
        return _train(folder, spec, student.cluster)

    inputs = [teacher, pairs, held_out, *([replay] if replay else [])]
    return Stage(f"student/{name}", run, settings=_what_counts(student.student, student), inputs=inputs)


def _what_counts(settings: TeacherSettings | StudentSettings, recipe: CurateAndTrainRecipe) -> dict[str, Any]:
    """What changes the weights: another cache or another number of threads does not train again."""
    counts = {"training": settings.training.what_counts(), "seed": recipe.seed, "audio": plain(recipe.audio)}
    return plain(settings) | counts


def _train(folder: storage.Location, spec: TrainingSpec, cluster: ClusterSettings) -> dict[str, Any]:
    return run_as_task(teachers.finish, folder, train_on_cluster(spec, cluster))
