"""Taggers as stages leave them: `model/`, and `model.json` with their fingerprint and what they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.models.tagger_checkpoint import load_tagger
from raysem.runs.tagging_recipe import TaggerTrainingSettings
from raysem.training.run import TrainingResult
from raysem.training.tag_spec import TaggingSpec

MODEL_JSON = "model.json"


def training_spec(
    name: str,
    settings: TaggerTrainingSettings,
    *,
    output: storage.Location,
    classes: storage.Location,
    sources: Sequence[storage.Location],
    held_out: Sequence[storage.Location],
    watched: Mapping[str, Sequence[storage.Location]],
    seed: int,
    audio: AudioSettings,
) -> TaggingSpec:
    """The run that trains one tagger; without held-out clips it keeps its last step."""
    training = settings.training
    if not held_out and training.keep == "best":
        training = training.model_copy(update={"keep": "last"})
    return TaggingSpec(
        output=output,
        classes=classes,
        sources=tuple(sources),
        held_out=tuple(held_out),
        watched={set_name: tuple(shards) for set_name, shards in watched.items()},
        seed=seed,
        model=settings.model,
        objective=settings.objective,
        sampling=settings.sampling,
        augmentation=settings.augmentation,
        mixup=settings.mixup,
        training=training,
        audio=audio,
        name=name,
    )


def finish(folder: storage.Location, result: TrainingResult) -> dict[str, Any]:
    """Record a trained tagger; returns the stage's summary."""
    tagger = load_tagger(storage.join(folder, "model"), "cpu")
    found = {
        "fingerprint": tagger.fingerprint(),
        "encoder": tagger.settings.encoder,
        "sample_rate": tagger.sample_rate,
        "crop_samples": tagger.crop_samples,
        "classes": tagger.num_classes,
        "parameters": sum(parameter.numel() for parameter in tagger.parameters()),
    }
    storage.write_json(storage.join(folder, MODEL_JSON), found)
    return found | {"training": result.to_json()}


def about(folder: storage.Location) -> dict[str, Any]:
    """The content of a tagger stage's `model.json`."""
    return storage.read_json(storage.join(folder, MODEL_JSON))
