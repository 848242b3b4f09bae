"""Classifiers as folders: with BERT, with CLIP's text tower, and the baseline without text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip_tower import clip_tower
from torch import Tensor

from raysem.config import build
from raysem.errors import ConfigError, DataError, UserError
from raysem.models import classifier_checkpoint
from raysem.models.classifier import Classifier, build_classifier
from raysem.models.classifier_checkpoint import load_classifier, read_classifier_config, save_classifier
from raysem.models.classifier_settings import ClassifierSettings
from raysem.models.pretrained import EncoderSource
from raysem.models.tagger import TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import load_tagger, save_tagger

LABELS = ("dog", "cat", "rain, heavy")
SMALL: dict[str, Any] = {
    "encoder": "cnn14_tiny",
    "front_end": {"sample_rate": 8000, "window_samples": 256, "num_mels": 32, "max_hz": 3900.0},
    "network": {"channels": (2, 2, 4, 4, 8, 8), "num_mels": 32},
    "crop_seconds": 1.5,
}
KINDS = ("bert", "clip", "baseline")


@pytest.fixture
def text_folder(tmp_path: Path, bert_folder: Path) -> Callable[[str], Path]:
    """A copy of a text encoder's folder, to be thrown away."""

    def made(kind: str) -> Path:
        folder = tmp_path / "original" / kind
        return clip_tower(folder, projection=24) if kind == "clip" else Path(shutil.copytree(bert_folder, folder))

    return made


def classifier(kind: str, text: Path | None, **changes: Any) -> Classifier:
    """One whose batch norms have seen clips, its text encoder away from where it was read."""
    content: dict[str, Any] = {"similarity": None}
    if text is not None:
        encoder = {"name": str(text), "max_tokens": 30, "pooling": "eos" if kind == "clip" else "mean", "trained": True}
        content = {"similarity": {"name": "cscm"}, "shared_width": 24, "text": encoder}
    model = build_classifier(build(ClassifierSettings, SMALL | content | changes), LABELS, seed=0)
    with torch.no_grad():
        model.train().encode_audio(torch.from_numpy(waveforms()))
        if model.text_encoder is not None:
            for parameter in model.text_encoder.base.parameters():
                parameter.mul_(1.25)
    return model


def waveforms() -> np.ndarray:
    return 0.1 * np.random.default_rng(0).normal(size=(3, 12_000)).astype(np.float32)


def scores(model: Classifier) -> np.ndarray:
    return model.score_waveforms(waveforms(), model.embed_labels(model.labels) if model.reads_text else None)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, text_folder: Callable[[str], Path]) -> Classifier:
    """Of each kind; where its text encoder came from is gone."""
    if request.param == "baseline":
        return classifier("baseline", None)
    folder = text_folder(request.param)
    made = classifier(request.param, folder)
    shutil.rmtree(folder)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path, bert_folder: Path) -> Path:
    save_classifier(str(tmp_path / "classifier"), classifier("bert", bert_folder), {"step": 7})
    return tmp_path / "classifier"


def test_a_checkpoint_comes_back_to_the_bit(model: Classifier, tmp_path: Path):
    save_classifier(str(tmp_path / "saved"), model)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded = load_classifier(str(tmp_path / "saved"))
    assert torch.equal(before, torch.get_rng_state()), "nothing is drawn from the caller's generator"
    assert not any(module.training for module in loaded.modules())
    assert (loaded.settings, loaded.labels) == (model.settings, LABELS)
    assert loaded.fingerprint() == model.fingerprint()
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    trained = [name for name, parameter in loaded.named_parameters() if parameter.requires_grad]
    assert trained == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert np.array_equal(scores(loaded), scores(model))


def test_saving_what_was_loaded_gives_the_same_files(model: Classifier, tmp_path: Path):
    save_classifier(str(tmp_path / "one"), model, {"step": 7})
    save_classifier(str(tmp_path / "two"), load_classifier(str(tmp_path / "one")), {"step": 7})
    files = files_of(tmp_path / "one")
    assert files_of(tmp_path / "two") == files
    own = {"config.json", "model.safetensors"}
    assert own <= files.keys()
    assert {name for name in files if not name.startswith("text_encoder/")} == own
    assert ("text_encoder/model.safetensors" in files) == model.reads_text


def test_each_weight_stands_in_one_file(model: Classifier, tmp_path: Path):
    save_classifier(str(tmp_path), model)
    names = set(load_file(tmp_path / "model.safetensors"))
    if model.reads_text:
        text = {f"text_encoder.base.{name}" for name in load_file(tmp_path / "text_encoder" / "model.safetensors")}
        assert text
        assert not names & text
        names |= text
    assert names == model.state_dict().keys()


def test_the_config_says_format_labels_and_more(checkpoint: Path):
    content = json.loads((checkpoint / "config.json").read_text())
    assert content["format"] == "raysem-classifier-1"
    assert content["labels"] == list(LABELS)
    assert content["settings"]["network"]["block_dropout"] == 0.2, "numbers that the recipe left out are written out"
    config = read_classifier_config(str(checkpoint))
    assert (config.extra, config.labels) == ({"step": 7}, LABELS)


def test_a_checkpoint_does_not_need_the_file_that_it_started_from(tmp_path: Path):
    model = classifier("baseline", None)
    start = EncoderSource(kind="tagger", location=str(tmp_path / "gone"), encoder="cnn14_tiny")
    model.settings = model.settings.model_copy(update={"start": start})
    save_classifier(str(tmp_path / "classifier"), model)
    assert load_classifier(str(tmp_path / "classifier")).settings.start == start


def test_a_checkpoint_can_be_moved_and_can_lie_behind_a_uri(model: Classifier, tmp_path: Path):
    save_classifier(str(tmp_path / "here"), model)
    (tmp_path / "here").rename(tmp_path / "there")
    assert load_classifier(str(tmp_path / "there")).fingerprint() == model.fingerprint()
    save_classifier("memory://classifiers/one", model)
    assert np.array_equal(scores(load_classifier("memory://classifiers/one")), scores(model))


@pytest.mark.parametrize("before", KINDS)
def test_nothing_is_left_of_what_was_in_the_folder_before(
    before: str, model: Classifier, text_folder: Callable[[str], Path], tmp_path: Path
):
    """A tokenizer of another text encoder would be taken for this one's."""
    save_classifier(str(tmp_path / "alone"), model)
    save_classifier(str(tmp_path / "over"), classifier(before, None if before == "baseline" else text_folder(before)))
    save_classifier(str(tmp_path / "over"), model)
    assert files_of(tmp_path / "over") == files_of(tmp_path / "alone")
    assert np.array_equal(scores(load_classifier(str(tmp_path / "over"))), scores(model))


@pytest.mark.parametrize("failing", ["write_weights", "write_text_encoder"])
def test_a_folder_is_no_checkpoint_until_all_is_written(
    failing: str, checkpoint: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    model = classifier("bert", bert_folder)
    monkeypatch.setattr(classifier_checkpoint, failing, stop)
    with pytest.raises(KeyboardInterrupt):
        save_classifier(str(checkpoint), model)
    with pytest.raises(ConfigError, match=r"no raysem checkpoint there \(config.json is missing\)"):
        load_classifier(str(checkpoint))


def test_a_tagger_and_a_classifier_are_told_apart(checkpoint: Path, tmp_path: Path):
    tagger = build_tagger(build(TaggerSettings, SMALL), ("A", "B"), ("/m/1", "/m/2"), None, seed=0)
    save_tagger(str(tmp_path / "tagger"), tagger)
    with pytest.raises(DataError) as caught:
        load_classifier(str(tmp_path / "tagger"))
    assert str(caught.value) == (
        f"{tmp_path}/tagger: is a tagger (format 'raysem-tagger-1'), expected a classifier ('raysem-classifier-1')"
    )
    with pytest.raises(DataError) as caught:
        load_tagger(str(checkpoint))
    assert str(caught.value) == (
        f"{checkpoint}: is a classifier (format 'raysem-classifier-1'), expected a tagger ('raysem-tagger-1')"
    )


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: no raysem checkpoint there \(config.json is missing\)$"):
        load_classifier(str(tmp_path))


def change_weights(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("logit_scale"), r"missing \['logit_scale'\], left over \[\]"),
        (lambda w: w.update(more=torch.zeros(1)), r"missing \[\], left over \['more'\]"),
        (
            lambda w: w.update({"text_encoder.base.embeddings.word_embeddings.weight": torch.zeros(64, 32)}),
            r"missing \[\], left over \['text_encoder.base.embeddings.word_embeddings.weight'\]",
        ),
        (
            lambda w: w.update({"text_projection.bias": torch.zeros(5)}),
            r"\['text_projection.bias \(5,\) instead of \(24,\)'\]",
        ),
        (lambda w: w["text_projection.bias"].add_(1), "weights have sha256 .*, config.json says"),
    ],
)
def test_weights_that_do_not_fit_are_listed(checkpoint: Path, change: Callable[[Any], object], message: str):
    change_weights(checkpoint / "model.safetensors", change)
    with pytest.raises(DataError, match=rf"^{checkpoint}: .*{message}"):
        load_classifier(str(checkpoint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("embeddings.LayerNorm.bias"), r"missing \['embeddings.LayerNorm.bias'\], left over \[\]"),
        (lambda w: w.update(more=torch.zeros(1)), r"missing \[\], left over \['more'\]"),
        (lambda w: w.update({"embeddings.LayerNorm.bias": torch.zeros(5)}), "the weights cannot be loaded"),
        (lambda w: w["embeddings.LayerNorm.bias"].add_(1), "weights have sha256 .*, config.json says"),
    ],
)
def test_weights_of_the_text_encoder_that_do_not_fit_are_listed(
    checkpoint: Path, change: Callable[[Any], object], message: str
):
    change_weights(checkpoint / "text_encoder" / "model.safetensors", change)
    with pytest.raises(DataError, match=rf"^{checkpoint}.*: .*{message}"):
        load_classifier(str(checkpoint))


def test_a_weight_of_the_baseline_that_changed_is_told_by_the_digest(tmp_path: Path):
    save_classifier(str(tmp_path), classifier("baseline", None))
    change_weights(tmp_path / "model.safetensors", lambda w: w["encoder.network.bn0.bias"].add_(1e-6))
    with pytest.raises(DataError, match=r"weights have sha256 [0-9a-f]{64}, config.json says [0-9a-f]{64}$"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="raysem-classifier-9"), "a raysem checkpoint with format 'raysem-classifier-1'"),
        (lambda c: c.pop("labels"), "config.json: labels: is missing and has no default"),
        (lambda c: c.update(labels=["dog"]), "config.json: labels: expected at least 2 different labels"),
        (lambda c: c.update(labels=["dog", "cat", "dog"]), "config.json: labels: expected at least 2 different labels"),
        (lambda c: c["settings"].update(shared_width=0), "settings.shared_width: expected greater than 0"),
        (lambda c: c["settings"].update(shared_widht=9), r"settings.shared_widht: no such key \(did you mean shared_"),
        (lambda c: c["settings"].update(shared_width=25), r"text_projection.bias \(24,\) instead of \(25,\)"),
        (lambda c: c["settings"].update(similarity=None), r"missing \['classifier.bias', 'classifier.weight'\]"),
        (lambda c: c["settings"]["similarity"].update(name="mean"), r"left over \[.*'similarity.attention"),
        (lambda c: c["settings"]["network"].update(widht=1), r"network: widht: no such key"),
    ],
)
def test_a_config_that_cannot_be_is_one_line_that_names_the_key(
    checkpoint: Path, change: Callable[[Any], object], message: str
):
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_classifier(str(checkpoint))


@pytest.mark.parametrize("file", ["model.safetensors", "text_encoder/model.safetensors"])
def test_weights_that_are_missing_or_damaged_are_named(file: str, checkpoint: Path):
    content = (checkpoint / file).read_bytes()
    (checkpoint / file).write_bytes(content[:-10])
    with pytest.raises(DataError, match=rf"{file}: not a readable safetensors file"):
        load_classifier(str(checkpoint))
    (checkpoint / file).unlink()
    with pytest.raises(DataError, match=rf"{file}: is missing, the checkpoint is not whole"):
        load_classifier(str(checkpoint))


@pytest.mark.parametrize("file", ["config.json", "vocab.txt"])
def test_small_files_of_the_text_encoder_that_are_missing_are_named(file: str, checkpoint: Path):
    (checkpoint / "text_encoder" / file).unlink()
    with pytest.raises(UserError, match=rf"{checkpoint}/text_encoder has no"):
        load_classifier(str(checkpoint))


def test_damaged_json_is_named(checkpoint: Path):
    (checkpoint / "config.json").write_text('{"format": ')
    with pytest.raises(DataError, match=r"config.json: not JSON"):
        load_classifier(str(checkpoint))
