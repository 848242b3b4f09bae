"""Classifiers whose encoder starts from a checkpoint: published ones, small and with random weights, and a tagger's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysem.config import build
from raysem.errors import ConfigError, DataError
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_checkpoint import load_classifier, save_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.importers import panns
from raysem.models.pretrained import load_encoder
from raysem.models.registry import build_network
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import save_tagger

LABELS = ("dog", "cat", "rain")
CHANNELS = (4, 4, 4, 8, 8, 16)
PANNS: dict[str, Any] = {"encoder": "cnn14", "network": {"channels": CHANNELS}, "crop_seconds": 1.0}
EFFICIENTAT: dict[str, Any] = {"encoder": "mn04", "crop_seconds": 1.0}
TAGGER: dict[str, Any] = {
    "encoder": "cnn14_tiny",
    "front_end": {"sample_rate": 8000, "window_samples": 256, "num_mels": 32, "max_hz": 3900.0},
    "network": {"channels": CHANNELS, "num_mels": 32},
    "crop_seconds": 1.5,
}


@pytest.fixture(params=["cscm", None], ids=str)
def similarity(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    return None if request.param is None else {"name": request.param}


@pytest.fixture
def text(bert_folder: Path) -> dict[str, Any]:
    return {"name": str(bert_folder), "max_tokens": 30}


def classifier(content: dict[str, Any], *, seed: int = 3) -> Classifier:
    settings = build(ClassifierSettings, {"shared_width": 24} | content)
    return build_classifier(settings, LABELS, seed=seed, key="model.start")


def random_state(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of the whole network as published, with its classifier."""
    network = build(ClassifierSettings, content | {"similarity": None}).design.network
    torch.manual_seed(1)
    return dict(build_network(network.model_copy(update={"num_classes": 527})).state_dict())


def panns_file(file: Path) -> dict[str, Any]:
    """With kernels that are no Fourier transform, so that computed ones would show."""
    state = random_state(PANNS)
    kernels = {
        "spectrogram_extractor.stft.conv_real.weight": torch.randn(513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": torch.randn(513, 1, 1024),
        "logmel_extractor.melW": torch.rand(513, 64) / 100,
    }
    torch.save({"model": state | kernels}, file)
    return PANNS | {"start": {"kind": "panns", "location": str(file)}}


def efficientat_file(file: Path) -> dict[str, Any]:
    torch.save(random_state(EFFICIENTAT), file)
    return EFFICIENTAT | {"start": {"kind": "efficientat", "location": str(file), "encoder": "mn04"}}


@pytest.fixture(params=[panns_file, efficientat_file])
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings with a start; PANNs published one size, here it is smaller."""
    numbers = panns.Cnn14Settings
    monkeypatch.setattr(panns, "Cnn14Settings", lambda **changes: numbers(channels=CHANNELS, **changes))
    return request.param(tmp_path / "published.pt")


def tagger(**changes: Any) -> Tagger:
    model = build_tagger(build(TaggerSettings, TAGGER | changes), ("A", "B"), ("/m/1", "/m/2"), None, seed=5)
    with torch.no_grad():
        model.train()(0.1 * torch.randn(4, 12_000))  # moves the statistics of batch norms
    return model


@pytest.fixture
def of_tagger(tmp_path: Path) -> dict[str, Any]:
    return {"kind": "tagger", "location": str(tmp_path / "tagger"), "encoder": "cnn14_tiny"}


def waveforms(model: Classifier) -> np.ndarray:
    noise_BT = np.random.default_rng(0).normal(size=(3, model.crop_samples)).astype(np.float32)
    return noise_BT * np.array([[0.3], [0.1], [0.01]], dtype=np.float32)


def test_the_encoder_is_that_of_the_file_and_the_rest_of_the_seed(
    published: dict[str, Any], similarity: dict[str, Any] | None, text: dict[str, Any]
):
    content = published | {"similarity": similarity, "text": text}
    model, fresh = classifier(content), classifier(content | {"start": None})
    assert model.settings.start is not None
    theirs = load_encoder(model.settings.start, design=model.settings.design, with_classes=False)
    waveform_BT = torch.from_numpy(waveforms(model))
    with torch.no_grad():
        found, expected, random = (one(waveform_BT) for one in (model.encoder.eval(), theirs, fresh.encoder.eval()))
    assert torch.equal(found.map_BWFN, expected.map_BWFN)
    assert torch.equal(found.embedding_BW, expected.embedding_BW)
    assert not torch.allclose(found.map_BWFN, random.map_BWFN)
    state = fresh.state_dict()
    others = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    assert {name.split(".")[0] for name in others} >= (
        {"similarity", "text_projection"} if similarity else {"classifier"}
    )
    assert all(torch.equal(tensor, state[name]) for name, tensor in others.items())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


def test_a_started_classifier_is_saved_with_all_that_it_took_from_the_file(
    published: dict[str, Any], similarity: dict[str, Any] | None, text: dict[str, Any], tmp_path: Path
):
    model = classifier(published | {"similarity": similarity, "text": text})
    save_classifier(str(tmp_path / "classifier"), model)
    (tmp_path / "published.pt").unlink()
    loaded = load_classifier(str(tmp_path / "classifier"))
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.settings.front_end.get("kernels") == ("stored" if published["encoder"] == "cnn14" else None)
    waveform_BT = torch.from_numpy(waveforms(model))
    with torch.no_grad():
        assert torch.equal(loaded.encode_audio(waveform_BT), model.eval().encode_audio(waveform_BT))


def test_the_encoder_of_a_tagger_that_raysem_trained_is_taken_over(
    of_tagger: dict[str, Any], similarity: dict[str, Any] | None, text: dict[str, Any]
):
    source = tagger()
    save_tagger(of_tagger["location"], source)
    model = classifier(TAGGER | {"start": of_tagger, "similarity": similarity, "text": text})
    state = model.encoder.state_dict()
    assert state.keys() == source.encoder.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in source.encoder.state_dict().items())
    assert model.labels == LABELS


def test_dropout_of_the_tagger_s_training_is_not_taken_over(of_tagger: dict[str, Any], text: dict[str, Any]):
    save_tagger(of_tagger["location"], tagger())
    network = TAGGER["network"] | {"block_dropout": 0.05}
    model = classifier(TAGGER | {"start": of_tagger, "network": network, "text": text})
    assert model.encoder.network.settings.block_dropout == 0.05


def test_a_tagger_of_other_numbers_is_refused_with_both(of_tagger: dict[str, Any], text: dict[str, Any]):
    save_tagger(of_tagger["location"], tagger())
    content = TAGGER | {"start": of_tagger, "text": text, "network": {"channels": (4, 4, 4, 8, 8, 12), "num_mels": 32}}
    message = r"^model.start.location: .*network.channels is \[4, 4, 4, 8, 8, 16\] there and \[4, 4, 4, 8, 8, 12\] here"
    with pytest.raises(ConfigError, match=message):
        classifier(content)


def test_a_start_that_is_not_there_or_does_not_fit_is_named(
    of_tagger: dict[str, Any], text: dict[str, Any], tmp_path: Path
):
    with pytest.raises(ConfigError, match=r"^model.start.location: .*tagger: no raysem checkpoint there"):
        classifier(TAGGER | {"start": of_tagger, "text": text})
    content = efficientat_file(tmp_path / "mn04.pt") | {"text": text}
    with pytest.raises(DataError, match=r"mn04.pt: weights do not fit: .*of another shape \[.*'features"):
        classifier(content | {"network": {"width": 0.3}})
    (tmp_path / "mn04.pt").unlink()
    with pytest.raises(ConfigError, match=r"^model.start.location: no file .*mn04\.pt"):
        classifier(content)
