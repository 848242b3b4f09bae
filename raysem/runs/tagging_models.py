"""Taggers as stages leave them: `model/`, and `model.json` with their fingerprint and what they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.models.tagger_checkpoint import load_tagger
from raysem.runs import model_record
from raysem.runs.tagging_recipe import TaggerTrainingSettings
from raysem.training.run import TrainingResult
from raysem.training.tag_spec import TaggingSpec


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
        training=model_record.kept_step(settings.training, has_held_out=bool(held_out)),
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
    return model_record.write(folder, found) | {"training": result.to_json()}
