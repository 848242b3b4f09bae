from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raysem.errors import ConfigError, DataError
from raysem.models.checkpoint import (
    fingerprint,
    learned_state,
    load_learned_state,
    load_model,
    read_config,
    save_model,
)
from raysem.models.clap import Clap, ClapSettings
from raysem.models.start import build_clap
from raysem.models.teacher import TeacherSource, load_teacher

TEXTS = ["a dog barks", "siren"]


@pytest.fixture
def checkpoint(tiny_clap: Clap, tmp_path: Path) -> str:
    save_model(str(tmp_path / "model"), tiny_clap, {"step": 7})
    return str(tmp_path / "model")


def test_a_checkpoint_comes_back_to_the_bit(tiny_clap: Clap, checkpoint: str):
    model = load_model(checkpoint)
    assert not model.training
    assert model.settings == tiny_clap.settings
    assert fingerprint(model) == fingerprint(tiny_clap)
    clips_BT = np.random.default_rng(0).normal(size=(3, 8000)).astype(np.float32)
    assert np.array_equal(model.embed_waveforms(clips_BT), tiny_clap.embed_waveforms(clips_BT))
    assert np.array_equal(model.embed_texts(TEXTS), tiny_clap.embed_texts(TEXTS))
    assert read_config(checkpoint)["extra"] == {"step": 7}


def test_a_model_without_its_text_encoder_embeds_audio_to_the_bit(tiny_clap: Clap, checkpoint: str):
    model = load_model(checkpoint, with_text=False)
    clips_BT = np.random.default_rng(0).normal(size=(3, 8000)).astype(np.float32)
    assert np.array_equal(model.embed_waveforms(clips_BT), tiny_clap.embed_waveforms(clips_BT))
    for use in (lambda: model.embed_texts(TEXTS), model.fingerprint):
        with pytest.raises(RuntimeError, match="without its text encoder"):
            use()


@pytest.mark.parametrize("file", ["model.safetensors", "text_encoder/model.safetensors"])
def test_a_damaged_weight_is_found_with_and_without_the_text_encoder(checkpoint: str, file: str):
    path = Path(checkpoint) / file
    state = load_file(path)
    name = max(state, key=lambda each: state[each].numel())
    state[name].view(-1)[0] += 1
    save_file(state, path)
    for with_text in (True, False):
        with pytest.raises(DataError, match="weights have sha256"):
            load_model(checkpoint, with_text=with_text)


def test_audio_alone_is_embedded_without_transformers(checkpoint: str):
    code = (
        "import sys; from raysem.models.teacher import TeacherSource, load_teacher;"
        f"load_teacher(TeacherSource(location={checkpoint!r}), with_text=False);"
        "print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_saving_what_was_loaded_gives_the_same_files(checkpoint: str, tmp_path: Path):
    save_model(str(tmp_path / "again"), load_model(checkpoint), {"step": 7})
    first = {p.relative_to(checkpoint): p.read_bytes() for p in Path(checkpoint).rglob("*") if p.is_file()}
    again = {p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert first == again


def test_a_checkpoint_needs_nothing_outside_its_folder(tiny_settings: ClapSettings, tmp_path: Path):
    import shutil

    shutil.copytree(tiny_settings.text.name, tmp_path / "text")
    text = tiny_settings.text.model_copy(update={"name": str(tmp_path / "text")})
    model = build_clap(tiny_settings.model_copy(update={"text": text}), seed=0)
    save_model(str(tmp_path / "a"), model)
    shutil.rmtree(tmp_path / "text")
    (tmp_path / "a").rename(tmp_path / "b")
    code = (
        "import sys\nfrom raysem.models.checkpoint import load_model\n"
        f"print(load_model({str(tmp_path / 'b')!r}).fingerprint())\nassert 'ray' not in sys.modules\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == model.fingerprint()


def test_each_weight_is_stored_once(tiny_clap: Clap, checkpoint: str):
    audio = load_file(f"{checkpoint}/model.safetensors")
    text = load_file(f"{checkpoint}/text_encoder/model.safetensors")
    stored = [*audio, *(f"text_encoder.base.{name}" for name in text)]
    assert sorted(stored) == sorted(tiny_clap.state_dict())


def test_a_trained_text_encoder_is_saved_as_it_was_trained(tiny_settings: ClapSettings, tmp_path: Path):
    text = tiny_settings.text.model_copy(update={"trained": True})
    model = build_clap(tiny_settings.model_copy(update={"text": text}), seed=0)
    with torch.no_grad():
        for parameter in model.text_encoder.parameters():
            parameter.add_(0.01)
    save_model(str(tmp_path / "model"), model)
    assert load_model(str(tmp_path / "model")).fingerprint() == model.fingerprint()


def test_a_checkpoint_can_lie_behind_a_uri(tiny_clap: Clap):
    save_model("memory://runs/one/model", tiny_clap)
    assert load_model("memory://runs/one/model").fingerprint() == tiny_clap.fingerprint()


def test_load_teacher_reads_a_checkpoint(tiny_clap: Clap, checkpoint: str):
    assert load_teacher(TeacherSource(location=checkpoint)).fingerprint() == tiny_clap.fingerprint()


def rewrite(file: str, change) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("audio_encoder.fc1.bias"), r"missing \['audio_encoder.fc1.bias'\], left over \[\]"),
        (lambda w: w.update(more=torch.zeros(1)), r"missing \[\], left over \['more'\]"),
        (
            lambda w: w.update({"audio_encoder.fc1.bias": torch.zeros(3)}),
            r"of another shape \['audio_encoder.fc1.bias \(3,\) instead of \(16,\)'\]",
        ),
        (lambda w: w["audio_encoder.fc1.bias"].add_(1), "weights have sha256 .*, config.json says"),
    ],
)
def test_weights_that_do_not_fit_are_listed(checkpoint: str, change, message: str):
    rewrite(f"{checkpoint}/model.safetensors", change)
    with pytest.raises(DataError, match=message):
        load_model(checkpoint)


def test_a_text_weight_that_is_missing_is_listed(checkpoint: str):
    name = "embeddings.LayerNorm.bias"
    rewrite(f"{checkpoint}/text_encoder/model.safetensors", lambda w: w.pop(name))
    with pytest.raises(DataError, match=rf"missing \['{name}'\]"):
        load_model(checkpoint)


def test_a_folder_without_a_checkpoint_is_a_mistake_of_the_user(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no raysem checkpoint there \(config.json is missing\)"):
        load_model(str(tmp_path))


def test_a_checkpoint_that_is_not_whole_is_refused(checkpoint: str):
    Path(checkpoint, "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model.safetensors: is missing, the checkpoint is not whole"):
        load_model(checkpoint)
    Path(checkpoint, "model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", DataError, "not JSON"),
        ('{"model_type": "bert"}', DataError, "expected a raysem checkpoint with format 'raysem-clap-1', found None"),
        ("[]", DataError, "found 'list'"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path: Path, content: str, error: type, message: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        load_model(str(tmp_path))


def test_an_unknown_setting_names_the_file(checkpoint: str):
    file = Path(checkpoint, "config.json")
    config = json.loads(file.read_text())
    config["settings"]["temprature"] = 1
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config.json: temprature: no such key \(did you mean temperature\?\)"):
        load_model(checkpoint)


def test_the_learned_state_leaves_a_frozen_text_encoder_out(tiny_settings: ClapSettings, tiny_clap: Clap):
    state = {name: tensor.clone() for name, tensor in learned_state(tiny_clap).items()}
    assert not [name for name in state if name.startswith("text_encoder.")]
    other = build_clap(tiny_settings, seed=1)
    assert other.fingerprint() != tiny_clap.fingerprint()
    load_learned_state(other, state)
    assert other.fingerprint() == tiny_clap.fingerprint()
    state.pop("logit_scale")
    with pytest.raises(DataError, match=r"missing \['logit_scale'\]"):
        load_learned_state(other, state)


def test_the_learned_state_holds_a_trained_text_encoder(tiny_settings: ClapSettings):
    text = tiny_settings.text.model_copy(update={"trained": True})
    model = build_clap(tiny_settings.model_copy(update={"text": text}), seed=0)
    assert learned_state(model).keys() == model.state_dict().keys()
    load_learned_state(model, learned_state(model))
