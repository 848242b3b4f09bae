from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raysem.audio.spec_mask import SpecMaskSettings
from raysem.errors import ConfigError, DataError, UserError
from raysem.models import tagger_checkpoint
from raysem.models.checkpoint import load_model, save_model
from raysem.models.clap import Clap
from raysem.models.pretrained import EncoderSource
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import load_tagger, read_tagger_config, save_tagger

TINY = ("cnn14_tiny", "mn_tiny", "ast_tiny", "hts_at_tiny", "passt_tiny")
NAMES, IDS = ("Dog", "Cat", "Rain, heavy"), ("/m/1", "/m/2", "/m/3")


def tagger(encoder: str = "mn_tiny", **settings: Any) -> Tagger:
    made = TaggerSettings(encoder=encoder, projection="mlp", spec_mask=SpecMaskSettings(num_masks_time=1), **settings)
    return build_tagger(made, NAMES, IDS, 12, seed=0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_tagger(str(tmp_path / "tagger"), tagger(), {"step": 7})
    return tmp_path / "tagger"


@pytest.mark.parametrize("encoder", TINY)
def test_a_checkpoint_comes_back_to_the_bit(encoder: str, tmp_path: Path):
    model = tagger(encoder)
    waveforms_BT = 0.1 * np.random.default_rng(0).normal(size=(3, 80_000)).astype(np.float32)
    with torch.no_grad():
        model.train()(torch.from_numpy(waveforms_BT))  # moves the statistics of batch norms
    save_tagger(str(tmp_path), model)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded = load_tagger(str(tmp_path))
    assert torch.equal(before, torch.get_rng_state())
    assert not loaded.training
    assert loaded.settings == model.settings
    assert (loaded.class_names, loaded.class_ids, loaded.text_width) == (NAMES, IDS, 12)
    assert loaded.fingerprint() == model.fingerprint()
    assert np.array_equal(loaded.score_waveforms(waveforms_BT), model.score_waveforms(waveforms_BT))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_saving_what_was_loaded_gives_the_same_files(checkpoint: Path, tmp_path: Path):
    save_tagger(str(tmp_path / "again"), load_tagger(str(checkpoint)), {"step": 7})
    files = [{file.name: file.read_bytes() for file in (checkpoint, tmp_path / "again")[i].iterdir()} for i in (0, 1)]
    assert files[0] == files[1]
    assert sorted(files[0]) == ["config.json", "model.safetensors"]


def test_the_config_says_format_classes_and_more(checkpoint: Path):
    content = json.loads((checkpoint / "config.json").read_text())
    assert content["format"] == "raysem-tagger-1"
    assert content["class_names"] == list(NAMES)
    assert content["settings"]["network"]["width"] == 0.2
    config = read_tagger_config(str(checkpoint))
    assert (config.extra, config.text_width) == ({"step": 7}, 12)


def test_a_checkpoint_does_not_need_the_file_that_it_started_from(tmp_path: Path):
    model = tagger()
    start = EncoderSource(kind="efficientat", location=str(tmp_path / "gone.pt"), encoder="mn_tiny")
    model.settings = model.settings.model_copy(update={"start": start})
    save_tagger(str(tmp_path / "tagger"), model)
    assert load_tagger(str(tmp_path / "tagger")).settings.start == start


def test_a_published_head_comes_back(tmp_path: Path):
    start = EncoderSource(kind="hts_at", location="gone.ckpt", encoder="hts_at_tiny")
    model = Tagger(TaggerSettings(encoder="hts_at_tiny", start=start, start_classes=True), NAMES, IDS)
    save_tagger(str(tmp_path), model)
    loaded = load_tagger(str(tmp_path))
    assert loaded.classifier is None
    assert loaded.fingerprint() == model.fingerprint()


def test_a_checkpoint_can_lie_behind_a_uri():
    model = tagger()
    save_tagger("memory://taggers/one", model)
    assert load_tagger("memory://taggers/one").fingerprint() == model.fingerprint()


def test_a_folder_is_no_checkpoint_until_its_weights_are_written(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tagger_checkpoint, "write_weights", stop)
    with pytest.raises(KeyboardInterrupt):
        save_tagger(str(checkpoint), tagger())
    with pytest.raises(ConfigError, match=r"no raysem checkpoint there \(config.json is missing\)"):
        load_tagger(str(checkpoint))


def test_a_clap_model_and_a_tagger_are_told_apart(tiny_clap: Clap, checkpoint: Path, tmp_path: Path):
    save_model(str(tmp_path / "clap"), tiny_clap)
    with pytest.raises(DataError) as caught:
        load_tagger(str(tmp_path / "clap"))
    assert str(caught.value) == (
        f"{tmp_path}/clap: is a CLAP model (format 'raysem-clap-1'), expected a tagger ('raysem-tagger-1')"
    )
    with pytest.raises(DataError) as caught:
        load_model(str(checkpoint))
    assert str(caught.value) == (
        f"{checkpoint}: is a tagger (format 'raysem-tagger-1'), expected a CLAP model ('raysem-clap-1')"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("classifier.bias"), r"missing \['classifier.bias'\], left over \[\]"),
        (lambda w: w.update(more=torch.zeros(1)), r"missing \[\], left over \['more'\]"),
        (lambda w: w.update({"classifier.bias": torch.zeros(5)}), r"\['classifier.bias \(5,\) instead of \(3,\)'\]"),
        (lambda w: w["classifier.bias"].add_(1), "weights have sha256 .*, config.json says"),
    ],
)
def test_weights_that_do_not_fit_are_listed(checkpoint: Path, change: Any, message: str):
    weights = load_file(checkpoint / "model.safetensors")
    change(weights)
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(DataError, match=message):
        load_tagger(str(checkpoint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="raysem-tagger-9"), "expected a raysem checkpoint with format 'raysem-tagger-1'"),
        (lambda c: c.update(format=["x"]), r"found \['x'\]"),
        (lambda c: c.pop("class_ids"), "config.json: class_ids: is missing and has no default"),
        (lambda c: c["settings"].update(hed_dropout=0), r"settings.hed_dropout: no such key \(did you mean head_"),
        (lambda c: c["settings"]["network"].update(widht=1), r"network: widht: no such key \(did you mean width\?\)"),
        (lambda c: c.update(text_width=0), "text_width: expected greater than 0"),
    ],
)
def test_a_config_that_cannot_be_is_one_line_that_names_the_key(checkpoint: Path, change: Any, message: str):
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_tagger(str(checkpoint))


def test_a_checkpoint_that_is_not_whole_is_refused(checkpoint: Path):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model.safetensors: is missing, the checkpoint is not whole"):
        load_tagger(str(checkpoint))
