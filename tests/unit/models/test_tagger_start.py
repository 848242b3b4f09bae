"""Taggers that start from checkpoints in the published layouts, small and with random weights.

That the importers read the layouts rightly is shown in tests/parity.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from raysem.config import build
from raysem.errors import ConfigError, DataError
from raysem.models.importers import panns
from raysem.models.importers.hts_at import RENAMED
from raysem.models.pretrained import load_encoder
from raysem.models.registry import build_network
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import load_tagger, save_tagger

State = dict[str, Tensor]
CHANNELS = [4, 4, 4, 8, 8, 16]
SMALL: dict[str, dict[str, Any]] = {
    "panns": {"encoder": "cnn14", "network": {"channels": CHANNELS}},
    "efficientat": {"encoder": "mn04", "start": {"encoder": "mn04"}},
    "ast": {
        "encoder": "ast",
        "front_end": {"num_mels": 32, "num_frames": 200},
        "network": {
            "width": 24,
            "depth": 2,
            "num_heads": 3,
            "mlp_width": 40,
            "num_mels": 32,
            "num_frames": 200,
        },
        "crop_seconds": 1.5,
    },
    "hts_at": {"encoder": "hts_at", "network": {"patch_width": 8, "num_heads": [1, 2, 4, 8]}},
    "passt": {"encoder": "passt_s", "network": {"width": 16, "depth": 2, "num_heads": 2}},
}


def random_state(kind: str, num_classes: int = 527) -> State:
    """Of the network of `SMALL`, under our names."""
    settings = build(TaggerSettings, {name: value for name, value in SMALL[kind].items() if name != "start"})
    torch.manual_seed(1)
    network = build_network(settings.design.network.model_copy(update={"num_classes": num_classes}))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for tensor in state.values():
        if tensor.is_floating_point() and tensor.dim() < 2:  # norms and biases, which start at 1 and 0
            tensor.add_(0.1 * torch.randn_like(tensor).abs())
        elif kind == "efficientat" and tensor.dim() == 4:  # else all clips would be alike after so many fresh norms
            tensor.mul_(4)
    return state


def kernels() -> State:
    """Of a front end that is no Fourier transform, so that a computed one would show."""
    return {
        "spectrogram_extractor.stft.conv_real.weight": torch.randn(513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": torch.randn(513, 1, 1024),
        "logmel_extractor.melW": torch.rand(513, 64) / 100,
    }


def panns_file(file: Path) -> None:
    torch.save({"model": random_state("panns") | kernels()}, file)


def efficientat_file(file: Path) -> None:
    torch.save(random_state("efficientat"), file)


def passt_file(file: Path) -> None:
    head = {"head_dist.weight": torch.randn(527, 16), "head_dist.bias": torch.randn(527)}
    torch.save(random_state("passt") | head, file)


def hts_at_file(file: Path) -> None:
    state = random_state("hts_at")
    for name in [name for name in state if ".attention.self.query." in name]:
        parts = [state.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        state[name.replace(".attention.self.query.", ".attn.qkv.")] = torch.cat(parts)
    published = {name.replace("base.audio_encoder.", ""): tensor for name, tensor in state.items()} | kernels()
    for pattern, ours in RENAMED[1:]:
        theirs = re.sub(r"\\(.)", r"\1", pattern)
        published = {name.replace(ours, theirs): tensor for name, tensor in published.items()}
    published = {re.sub("^batch_norm", "bn0", name): tensor for name, tensor in published.items()}
    for layer, windows in (("0.blocks.1", 64), ("1.blocks.1", 16), *((f"2.blocks.{b}", 4) for b in (1, 3, 5))):
        published[f"layers.{layer}.attn_mask"] = torch.zeros(windows, 64, 64)
    published |= {"head.weight": torch.randn(527, 527), "head.bias": torch.randn(527)}
    torch.save({"state_dict": {f"sed_model.{name}": tensor for name, tensor in published.items()}}, file)


def ast_folder(folder: Path, num_labels: int = 7, **changes: Any) -> None:
    torch.manual_seed(1)
    config = ASTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        num_mel_bins=32,
        max_length=200,
        num_labels=num_labels,
    )
    for name, value in changes.items():
        setattr(config, name, value)
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=config.max_length).save_pretrained(folder)


FILES: dict[str, Callable[[Path], None]] = {
    "panns": panns_file,
    "efficientat": efficientat_file,
    "ast": ast_folder,
    "hts_at": hts_at_file,
    "passt": passt_file,
}


@pytest.fixture(autouse=True)
def small_panns(monkeypatch: pytest.MonkeyPatch) -> None:
    """PANNs published one size; here it is smaller."""
    settings = panns.Cnn14Settings
    monkeypatch.setattr(panns, "Cnn14Settings", lambda **numbers: settings(channels=CHANNELS, **numbers))


@pytest.fixture(params=FILES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def settings_of(kind: str, location: Path, **more: Any) -> TaggerSettings:
    content = SMALL[kind] | more
    start = SMALL[kind].get("start", {}) | {"kind": kind, "location": str(location)}
    return build(TaggerSettings, content | {"start": start})


def clips(settings: TaggerSettings) -> np.ndarray:
    num_samples = round(settings.design.front_end.sample_rate * min(settings.design.crop_seconds, 5.0))
    noise_BT = np.random.default_rng(0).normal(size=(3, num_samples)).astype(np.float32)
    return noise_BT * np.array([[0.3], [0.1], [0.01]], dtype=np.float32)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


def test_the_encoder_is_that_of_the_file_and_the_heads_are_of_the_seed(kind: str, tmp_path: Path):
    FILES[kind](tmp_path / "start")
    settings = settings_of(kind, tmp_path / "start", projection="linear")
    model = build_tagger(settings, names(5), names(5), 12, seed=3).eval()
    assert settings.start is not None
    published = load_encoder(settings.start, design=settings.design, with_classes=False)
    waveform_BT = torch.from_numpy(clips(settings))
    with torch.no_grad():
        expected, found = published(waveform_BT), model.encoder(waveform_BT)
        assert model(waveform_BT).logits_BK.shape == (3, 5)
    assert torch.equal(found.embedding_BW, expected.embedding_BW)
    assert torch.equal(found.map_BWFN, expected.map_BWFN)
    assert found.embedding_BW.std(dim=0).mean() > 1e-5, "the clips must differ"
    fresh = build_tagger(settings.model_copy(update={"start": None}), names(5), names(5), 12, seed=3)
    for head in ("classifier.weight", "classifier.bias", "projection.weight", "projection.bias"):
        assert torch.equal(model.get_parameter(head), fresh.get_parameter(head)), head
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_started_tagger_is_saved_with_all_that_it_took_from_the_file(kind: str, tmp_path: Path):
    FILES[kind](tmp_path / "start")
    settings = settings_of(kind, tmp_path / "start")
    model = build_tagger(settings, names(5), names(5), None, seed=0)
    save_tagger(str(tmp_path / "tagger"), model)
    (tmp_path / "start").rename(tmp_path / "gone")
    loaded = load_tagger(str(tmp_path / "tagger"))
    assert loaded.fingerprint() == model.fingerprint()
    waveforms_BT = clips(settings)
    assert np.array_equal(loaded.score_waveforms(waveforms_BT), model.score_waveforms(waveforms_BT))
    assert loaded.settings.front_end.get("kernels") == ("stored" if kind in ("panns", "hts_at") else None)


def test_the_published_classifier_can_be_kept(kind: str, tmp_path: Path, audioset_metadata: Path):
    FILES[kind](tmp_path / "start")
    settings = settings_of(kind, tmp_path / "start", start_classes=True)
    ids = names(7)
    if kind != "ast":
        with open(audioset_metadata / "class_labels_indices.csv", newline="") as lines:
            ids = tuple(row["mid"] for row in csv.DictReader(lines))
    model = build_tagger(settings, ids, ids, None, seed=3).eval()
    assert settings.start is not None
    published = load_encoder(settings.start, design=settings.design)
    waveform_BT = torch.from_numpy(clips(settings))
    with torch.no_grad():
        expected_BK = published.class_logits(published(waveform_BT))
        assert torch.equal(model(waveform_BT).logits_BK, expected_BK)
    assert expected_BK.shape == (3, len(ids))
    if kind != "ast":
        shuffled = (ids[1], ids[0], *ids[2:])
        with pytest.raises(ConfigError, match=r"^start_classes: .*start knows AudioSet's classes in the order of"):
            build_tagger(settings, shuffled, shuffled, None, seed=3)


def test_a_classifier_of_other_classes_is_not_kept(tmp_path: Path):
    ast_folder(tmp_path)
    settings = settings_of("ast", tmp_path, start_classes=True)
    with pytest.raises(ConfigError, match=rf"^model.start_classes: {tmp_path} knows 7 classes, the tagger has 5$"):
        build_tagger(settings, names(5), names(5), None, seed=0, key="model.start")


def test_every_weight_of_a_kept_classifier_learns(kind: str, tmp_path: Path):
    settings = settings_of(kind, tmp_path, start_classes=True)
    torch.manual_seed(0)
    model = Tagger(settings, names(5), names(5)).train()
    waveform_BT = torch.from_numpy(clips(settings))
    model(waveform_BT).logits_BK.square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_numbers_that_matter_in_training_alone_may_differ_from_the_file(tmp_path: Path):
    panns_file(tmp_path / "a.pth")
    network = {"channels": CHANNELS, "embedding_dropout": 0.1}
    model = build_tagger(settings_of("panns", tmp_path / "a.pth", network=network), ["a"], ["a"], None, seed=0)
    assert model.settings.design.network.embedding_dropout == 0.1  # type: ignore[union-attr]


def test_an_ast_of_other_numbers_is_refused_with_both(tmp_path: Path):
    ast_folder(tmp_path / "strides", time_stride=8)
    with pytest.raises(
        ConfigError, match=r"^start: \S+ does not fit the settings: network.time_stride is 8 there and 10"
    ):
        build_tagger(settings_of("ast", tmp_path / "strides"), names(5), names(5), None, seed=0)
    ast_folder(tmp_path)
    front_end = SMALL["ast"]["front_end"] | {"mean": -5.0}
    with pytest.raises(ConfigError, match=r"front_end.mean is -4.2677393 there and -5.0 here"):
        build_tagger(settings_of("ast", tmp_path, front_end=front_end), names(5), names(5), None, seed=0)


def test_channels_of_another_size_are_refused_with_both(tmp_path: Path):
    panns_file(tmp_path / "a.pth")
    settings = settings_of("panns", tmp_path / "a.pth", network={})
    with pytest.raises(ConfigError, match=r"network.channels is \[4, 4, 4, 8, 8, 16\] there and \[64, 128, 256"):
        build_tagger(settings, ["a"], ["a"], None, seed=0)


def test_a_file_of_other_numbers_than_the_settings_is_refused_by_its_weights(tmp_path: Path):
    passt_file(tmp_path / "a.pt")
    network = {"width": 16, "depth": 3, "num_heads": 2}
    with pytest.raises(DataError, match=r"a.pt: weights do not fit: missing \['blocks.2"):
        build_tagger(settings_of("passt", tmp_path / "a.pt", network=network), ["a"], ["a"], None, seed=0)


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    panns_file(tmp_path / "a.pth")
    settings = TaggerSettings.model_validate(
        {"encoder": "mn04", "start": {"kind": "panns", "location": str(tmp_path / "a.pth"), "encoder": "mn04"}}
    )
    with pytest.raises(ConfigError, match=r"^start: .*a.pth is no mn04$"):
        build_tagger(settings, ["a"], ["a"], None, seed=0)


def test_a_file_that_is_not_there_names_its_setting():
    settings = settings_of("passt", Path("nothing.pt"))
    with pytest.raises(ConfigError, match=r"model.start.location: no file nothing\.pt"):
        build_tagger(settings, ["a"], ["a"], None, seed=0, key="model.start")
