"""What a recipe may say of a classifier, and the line that it gets where it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from raysem.config import build
from raysem.errors import ConfigError
from raysem.models.classifier_settings import ClassifierSettings, check_labels


def test_the_defaults_are_the_paper_s():
    settings = ClassifierSettings()
    assert settings.similarity is not None
    assert (settings.similarity.name, settings.shared_width) == ("cscm", 1024)
    assert settings.prompts.templates == ("an audio clip of {label}",)
    assert (settings.initial_scale, settings.max_scale) == (100, 100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_scale": 100, "max_scale": 50}, "initial_scale 100 is above max_scale 50"),
        ({"initial_scale": 0.5}, "initial_scale: expected greater than or equal to 1"),
        ({"similarity": {"name": "seq_gru"}}, "similarity.name: expected 'cscm', 'seq_lstm'"),
        (
            {"similarity": {"name": "seq_transf", "num_heads": 3}},
            "similarity.num_heads 3 does not divide shared_width 1024",
        ),
        ({"audio_dropout": 1.0}, "audio_dropout: expected less than 1"),
        ({"prompts": {"templates": ["a clip"]}}, "a prompt template holds {label}"),
        ({"prompts": {"templates": []}}, "expected at least one prompt template"),
        ({"network": {"num_classes": 4}}, "network.num_classes cannot be set"),
        ({"start": {"kind": "hts_at", "location": "x"}}, "start is a checkpoint of hts_at, encoder is mn10"),
        ({"shared_widht": 4}, r"shared_widht: no such key \(did you mean shared_width\?\)"),
    ],
)
def test_settings_that_cannot_be_are_one_line_that_names_the_key(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build(ClassifierSettings, changes)


def test_heads_count_for_the_transformer_alone():
    for content in ({"similarity": {"name": "cscm", "num_heads": 3}}, {"similarity": None, "shared_width": 3}):
        build(ClassifierSettings, content)


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ClassifierSettings().shared_width = 3  # type: ignore[misc]


@pytest.mark.parametrize("labels", [(), ("dog",), ("dog", "cat", "dog"), "dog"])
def test_labels_are_two_at_least_and_each_stands_once(labels: Any):
    check_labels(("dog", "cat"))
    with pytest.raises(ValueError, match="expected at least 2 different labels, got "):
        check_labels(labels)
