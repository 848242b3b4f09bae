from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from raysem.config import build, plain
from raysem.errors import ConfigError
from raysem.models.registry import WAVEFORM_ENCODERS
from raysem.models.tagger import TaggerSettings

START = {"kind": "efficientat", "location": "mn10.pt"}


def test_the_defaults_are_the_published_encoder():
    assert TaggerSettings().design == WAVEFORM_ENCODERS["mn10"]
    assert not TaggerSettings().spec_mask.is_on


def test_other_numbers_are_those_of_front_end_and_network():
    content = {
        "encoder": "passt_tiny",
        "front_end": {"min_hz": "1e2"},
        "network": {"patchout_time": 2},
        "crop_seconds": 4,
    }
    design = build(TaggerSettings, content).design
    assert design.crop_seconds == 4.0
    published = WAVEFORM_ENCODERS["passt_tiny"]
    assert design.front_end == published.front_end.model_copy(update={"min_hz": 100.0})
    assert design.network == published.network.model_copy(update={"patchout_time": 2})


def test_resolved_settings_say_every_number_and_outlive_the_registry(monkeypatch: pytest.MonkeyPatch):
    settings = TaggerSettings(encoder="cnn14_tiny", network={"embedding_dropout": 0.1})
    resolved = settings.resolved()
    assert resolved.resolved() == resolved
    assert resolved.design == settings.design
    stored = build(TaggerSettings, json.loads(json.dumps(plain(resolved))))
    assert stored == resolved
    other = replace(WAVEFORM_ENCODERS["cnn14_tiny"], crop_seconds=3.0)
    other = replace(other, network=other.network.model_copy(update={"channels": (8, 8, 8, 8, 8, 8)}))
    monkeypatch.setitem(WAVEFORM_ENCODERS, "cnn14_tiny", other)
    assert stored.design == resolved.design != settings.design


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"encoder": "passt_tiny", "network": {"patchout": 1}},
            "network: patchout: no such key (did you mean patchout_time?); there are depth, num_classes",
        ),
        ({"front_end": {"hop": 1}}, "front_end: hop: no such key; there are fft_samples, hop_samples"),
        ({"front_end": {"hop_samples": "long"}}, "front_end: hop_samples: expected"),
        ({"network": {"name": "x"}}, "network: name: no such key"),
        ({"network": {"num_classes": 5}}, "network.num_classes cannot be set: it is the number of classes"),
        ({"network": {"num_mels": 64}}, "front end of 128 mels, network of 64"),
        ({"encoder": "vgg"}, "encoder: expected 'cnn14', 'mn04'"),
        ({"encoder": "ast", "crop_seconds": 12}, "crop_seconds 12 gives 192000 samples, the encoder takes 400 to"),
        ({"encoder": "passt_tiny", "front_end": {"hop_samples": 160}}, "crop_seconds 5 gives 500 frames"),
        ({"crop_seconds": 0}, "crop_seconds: expected greater than 0"),
        ({"head_dropout": 1}, "head_dropout: expected less than 1"),
        ({"projection": "deep"}, "projection: expected 'none', 'linear' or 'mlp', got 'deep'"),
        (
            {"encoder": "cnn14", "network": {"spec_augment": True}, "spec_mask": {"num_masks_time": 1}},
            "network.spec_augment and spec_mask both mask the spectrogram: take one of them",
        ),
        ({"start_classes": True}, "start_classes keeps the classifier of a published checkpoint: it needs start"),
        ({"start": START, "start_classes": True, "head_dropout": 0.1}, "head_dropout is that of a new classifier"),
        ({"encoder": "cnn14", "start": START}, "start is a checkpoint of mn10, encoder is cnn14"),
        ({"encoder": "mn40", "start": START}, "start is a checkpoint of mn10, encoder is mn40; start.encoder says it"),
        ({"start": START | {"encoder": "mn04"}}, "start is a checkpoint of mn04, encoder is mn10"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_key(content: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        build(TaggerSettings, content, "r.yaml")
    assert str(caught.value).startswith("r.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
