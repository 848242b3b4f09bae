"""A classifier's labels for audio files: those of its training, or any others where it reads prompts."""

# Shapes: K labels, C width of the space that audio and prompts share.

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import Settings, build
from raysem.errors import UserError
from raysem.models.classifier import Classifier
from raysem.models.classifier_checkpoint import load_classifier, read_classifier_config
from raysem.runs.clip_tags import TagSettings, best_classes
from raysem.runs.scored_files import ScoredFile, score_files
from raysem.text.prompts import LabelPromptSettings


class ClassSettings(Settings):
    """Among which labels a classifier chooses, how a clip is heard, and how much is told."""

    labels: tuple[str, ...] = ()
    """Put into the prompts as they are, without the words that training had for a label; empty: those of training."""
    templates: tuple[str, ...] = ()
    """Prompts in place of those of training, as of `LabelPromptSettings`."""
    num_labels: PositiveInt = 5
    """At most so many labels a clip, those of highest probability."""
    num_crops: PositiveInt = 1
    """Evenly placed crops of a clip longer than one crop; their probabilities are averaged."""


@dataclass(frozen=True)
class FileClass:
    """A label of a file; `prompts` are what the classifier has read for it, none where it reads no text."""

    label: str
    probability: float
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class FileClasses:
    """What a classifier makes of one file: its labels, best first; none where it cannot be used."""

    scored: ScoredFile
    fingerprint: str
    """Of the classifier."""
    classes: tuple[FileClass, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this file: `file`, and `labels` and `model` (the fingerprint) or `error`."""
        if self.scored.error is not None:
            return {"file": self.scored.file, "error": self.scored.error}
        labels = [
            {"label": found.label, "probability": found.probability, "prompts": list(found.prompts)}
            for found in self.classes
        ]
        return {"file": self.scored.file, "labels": labels, "model": self.fingerprint}

    def describe(self) -> str:
        """The labels of a usable file as lines for a person."""
        return "\n".join(
            [self.scored.heading, *(f"  {found.probability:.4f}  {found.label}" for found in self.classes)]
        )


class FileClassifier:
    """A classifier from its checkpoint folder, on the GPU where there is one, with its labels embedded.

    Raises:
        UserError: there is no classifier, or it is damaged (see `load_classifier`); labels or templates for one that
            reads no text; labels that it could not tell apart.
    """

    def __init__(self, location: storage.Location, settings: ClassSettings, audio: AudioSettings | None = None):
        self._location, self._settings = location, settings
        config = read_classifier_config(location)
        if config.settings.similarity is None:
            _refuse_text(location, settings, len(config.labels))
        classifier = load_classifier(location, "cuda" if torch.cuda.is_available() else "cpu")
        self._fingerprint = classifier.fingerprint()
        self._labels = settings.labels or config.labels
        self._prompts: tuple[tuple[str, ...], ...] = ((),) * len(self._labels)
        self._text_KC: np.ndarray | None = None
        if classifier.reads_text:
            worded, key = _worded(classifier, settings), "--labels" if settings.labels else "--template"
            self._prompts = worded.prompts(self._labels, key=key)
            self._text_KC = worded.embed_labels(self._labels, key=key)
            _check_apart(self._labels, self._text_KC, key)
        self._classifier = classifier
        self._audio = (audio or AudioSettings()).model_copy(update={"sample_rate": classifier.sample_rate})

    def classify(self, files: Sequence[str]) -> Iterator[FileClasses]:
        """The labels of each file, a local path or a URI, in the order given; one that cannot be used has its reason.

        Raises:
            DataError: a score is not finite.
        """
        for scored in score_files(
            files,
            partial(self._classifier.score_waveforms, text_KC=self._text_KC),
            audio=self._audio,
            crop_samples=self._classifier.crop_samples,
            num_crops=self._settings.num_crops,
        ):
            classes = self._classes_of(scored.scores_K) if scored.error is None else ()
            yield FileClasses(scored, self._fingerprint, classes)

    def _classes_of(self, scores_K: np.ndarray) -> tuple[FileClass, ...]:
        best = best_classes(scores_K[None], TagSettings(num_tags=self._settings.num_labels), where=self._location)[0]
        return tuple(FileClass(self._labels[place], float(scores_K[place]), self._prompts[place]) for place in best)


def _refuse_text(location: storage.Location, settings: ClassSettings, num_labels: int) -> None:
    """UserError if there are labels or prompts for a classifier without a text encoder."""
    for option, given in (("--labels", settings.labels), ("--template", settings.templates)):
        if given:
            raise UserError(
                f"{option}: {location} is a baseline without text, a linear layer over the {num_labels} labels of its "
                f"training; {option} needs a classifier that reads prompts"
            )


def _worded(classifier: Classifier, settings: ClassSettings) -> Classifier:
    """The classifier with the words that were asked for; its weights are shared, its fingerprint is another."""
    changes: dict[str, Any] = {}
    if settings.labels:
        changes["label_words"] = {}
    if settings.templates:
        changes["prompts"] = build(LabelPromptSettings, {"templates": settings.templates}, "--template")
    worded = copy.copy(classifier)
    worded.settings = classifier.settings.model_copy(update=changes)
    return worded


def _check_apart(labels: Sequence[str], text_KC: np.ndarray, key: str) -> None:
    """UserError if two labels have one vector, as words unknown to a text encoder have."""
    owner: dict[bytes, str] = {}
    for label, text_C in zip(labels, text_KC, strict=True):
        first = owner.setdefault(text_C.tobytes(), label)
        if first != label:
            raise UserError(f"{key}: labels {first!r} and {label!r} are the same to the text encoder of this model")
