"""Models as stages leave them: `model.json` names the weights, their fingerprint and what they take and give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raysem import storage
from raysem.config import plain
from raysem.errors import UserError
from raysem.models.checkpoint import save_model
from raysem.models.clap import Clap
from raysem.models.protocol import AudioTextModel
from raysem.models.teacher import TeacherSource, load_teacher
from raysem.runs import model_record
from raysem.runs.curation_recipe import CurateAndTrainRecipe, TeacherSettings
from raysem.training.run import TrainingResult
from raysem.training.spec import TrainingSpec


def identity(settings: TeacherSettings) -> dict[str, Any]:
    """What a stage's digest says of a loaded teacher: settings, local files by size and time."""
    content = {"kind": settings.kind, "location": settings.location, "text_encoder": settings.text_encoder}
    path = Path(settings.location)
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return content | {"files": stats}


def load(folder: storage.Location, settings: TeacherSettings) -> dict[str, Any]:
    """Load a teacher from elsewhere; one that is a CLAP of ours is copied, so that the run holds its own weights."""
    source = TeacherSource(kind=settings.kind, location=settings.location, text_encoder=settings.text_encoder)
    model = load_teacher(source, "cpu")
    if isinstance(model, Clap):
        location = storage.join(folder, "model")
        save_model(location, model, {"imported_from": settings.location, "kind": settings.kind})
        source = TeacherSource(kind="raysem", location=location)
    return _write(folder, source, model)


def finish(folder: storage.Location, result: TrainingResult) -> dict[str, Any]:
    """Record a trained model; returns the stage's summary."""
    source = TeacherSource(kind="raysem", location=storage.join(folder, "model"))
    about = _write(folder, source, load_teacher(source, "cpu"))
    return about | {"training": result.to_json()}


def _write(folder: storage.Location, source: TeacherSource, model: AudioTextModel) -> dict[str, Any]:
    about = {
        "source": plain(source),
        "fingerprint": model.fingerprint(),
        "sample_rate": model.sample_rate,
        "crop_samples": model.crop_samples,
        "embedding_width": model.embedding_width,
    }
    return model_record.write(folder, about)


def source_of(folder: storage.Location) -> TeacherSource:
    """Where a model stage's weights are."""
    return TeacherSource(**model_record.about(folder)["source"])


def require_warm_start(folder: storage.Location) -> None:
    """UserError unless a student can start from these weights."""
    if source_of(folder).kind != "raysem":
        raise UserError("teacher.kind hf_clap: a student cannot start from its weights; use it with --until select")


def training_spec(
    recipe: CurateAndTrainRecipe,
    folder: storage.Location,
    clips: Sequence[storage.Location],
    held_out: Sequence[storage.Location],
) -> TrainingSpec:
    """A teacher from scratch."""
    teacher = recipe.teacher
    return TrainingSpec(
        output=folder,
        sources=tuple(clips),
        held_out=tuple(held_out),
        seed=recipe.seed,
        model=teacher.model,
        training=teacher.training,
        audio=recipe.audio,
        name="teacher",
    )


def student_spec(
    recipe: CurateAndTrainRecipe,
    folder: storage.Location,
    teacher: storage.Location,
    pairs: Sequence[storage.Location],
    replay: Sequence[storage.Location],
    held_out: Sequence[storage.Location],
) -> TrainingSpec:
    """A student that starts from the teacher's weights, and hears it where there are soft labels."""
    student = recipe.student
    objective = student.objective
    if not replay:
        objective = objective.model_copy(update={"replay_probability": 0.0})
    return TrainingSpec(
        output=folder,
        sources=tuple(pairs),
        held_out=tuple(held_out),
        replay=tuple(replay),
        seed=recipe.seed,
        initial_model=source_of(teacher).location,
        objective=objective,
        training=student.training,
        audio=recipe.audio,
        name="student",
    )
