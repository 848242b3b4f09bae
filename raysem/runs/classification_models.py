"""Classifiers as stages leave them: `model/`, and `model.json` with their fingerprint and what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.models.classifier_checkpoint import load_classifier
from raysem.runs import model_record
from raysem.runs.classification_recipe import ClassifierTrainingSettings
from raysem.training.classifier_spec import ClassifierSpec
from raysem.training.run import TrainingResult


def training_spec(
    name: str,
    settings: ClassifierTrainingSettings,
    *,
    output: storage.Location,
    labels: tuple[str, ...],
    sources: Sequence[storage.Location],
    held_out: Sequence[storage.Location],
    seed: int,
    audio: AudioSettings,
) -> ClassifierSpec:
    """The run that trains one classifier; without held-out clips it keeps its last step."""
    return ClassifierSpec(
        output=output,
        labels=labels,
        sources=tuple(sources),
        held_out=tuple(held_out),
        seed=seed,
        model=settings.model,
        objective=settings.objective,
        augmentation=settings.augmentation,
        epochs=settings.epochs,
        training=model_record.kept_step(settings.training, has_held_out=bool(held_out)),
        audio=audio,
        name=name,
    )


def finish(folder: storage.Location, result: TrainingResult) -> dict[str, Any]:
    """Record a trained classifier; returns the stage's summary."""
    classifier = load_classifier(storage.join(folder, "model"), "cpu")
    text = classifier.text_encoder
    found = {
        "fingerprint": classifier.fingerprint(),
        "encoder": classifier.settings.encoder,
        "similarity": classifier.settings.similarity.name if classifier.settings.similarity else None,
        "sample_rate": classifier.sample_rate,
        "crop_samples": classifier.crop_samples,
        "labels": classifier.num_labels,
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "text_parameters": sum(parameter.numel() for parameter in text.parameters()) if text is not None else 0,
    }
    return model_record.write(folder, found) | {"training": result.to_json()}
