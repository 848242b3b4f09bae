"""A classifier as a folder: `model.safetensors`, `config.json`, and with prompts the text encoder beside them.

The folder needs no network and no other file, what the encoder started from included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import field_validator

from raysem import storage
from raysem.config import Settings, build, plain
from raysem.models.checkpoint_folder import (
    CLASSIFIER_FORMAT,
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_keys,
    check_weights_digest,
    read_config,
    read_weights,
    stored_state,
    write_weights,
)
from raysem.models.clap import weights_digest
from raysem.models.classifier import Classifier
from raysem.models.classifier_settings import ClassifierSettings, check_labels
from raysem.models.stored_text import TEXT_FOLDER, TEXT_PREFIX, read_text_encoder, write_text_encoder


class ClassifierConfig(Settings):
    """What `config.json` holds."""

    format: Literal["raysem-classifier-1"]
    settings: ClassifierSettings
    labels: tuple[str, ...]
    weights_sha256: str
    extra: dict[str, Any]

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        check_labels(labels)
        return labels


def save_classifier(folder: str, classifier: Classifier, extra: Mapping[str, Any] | None = None) -> None:
    """Write a self-contained checkpoint to a local or remote folder; `extra` (JSON values) goes into `config.json`.

    `config.json` is written last, so a folder that has it is whole.
    """
    config = ClassifierConfig(
        format=CLASSIFIER_FORMAT,
        settings=classifier.settings,
        labels=classifier.labels,
        weights_sha256=weights_digest(classifier),
        extra=dict(extra or {}),
    )
    state = stored_state(classifier)
    storage.delete(storage.join(folder, CONFIG_FILE))
    if classifier.text_encoder is not None:
        write_text_encoder(folder, classifier.text_encoder, state)
    else:
        storage.delete(storage.join(folder, TEXT_FOLDER))  # of a classifier that was here before
    write_weights(storage.join(folder, WEIGHTS_FILE), state)
    storage.write_json(storage.join(folder, CONFIG_FILE), plain(config))


def load_classifier(location: str, device: str | torch.device = "cpu") -> Classifier:
    """The classifier of a checkpoint folder, in evaluation mode; nothing is drawn from the caller's generator.

    Raises:
        ConfigError: there is no checkpoint, or `config.json` holds what it should not.
        DataError: it is of another kind of model, a file is missing or damaged, or the weights do not fit.
    """
    config = read_classifier_config(location)
    state = read_weights(storage.join(location, WEIGHTS_FILE))
    reads_text = config.settings.similarity is not None
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU, those of the text encoder as well
        text_encoder = read_text_encoder(location, config.settings.text) if reads_text else None
        classifier = Classifier(config.settings, config.labels, text_encoder=text_encoder)
    own = {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith(TEXT_PREFIX)}
    check_keys(state, own, location)
    classifier.load_state_dict(state, strict=False)
    check_weights_digest(classifier.state_dict(), config.weights_sha256, location)
    return classifier.to(device).eval()


def read_classifier_config(location: str) -> ClassifierConfig:
    """Settings, labels and `extra` of a checkpoint folder, without its weights."""
    return build(ClassifierConfig, read_config(location, CLASSIFIER_FORMAT), storage.join(location, CONFIG_FILE))
