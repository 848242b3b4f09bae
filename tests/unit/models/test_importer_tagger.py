"""Encoders from the folders of taggers that raysem trained itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from raysem.audio.logmel import LogMelSettings
from raysem.config import build
from raysem.errors import ConfigError, DataError
from raysem.models.checkpoint import save_model
from raysem.models.clap import Clap
from raysem.models.pretrained import EncoderSource, load_encoder
from raysem.models.registry import encoder_design
from raysem.models.tagger import Tagger, TaggerSettings, build_tagger
from raysem.models.tagger_checkpoint import load_tagger, save_tagger

TINY = ("cnn14_tiny", "mn_tiny", "ast_tiny", "hts_at_tiny", "passt_tiny")
NAMES, IDS = ("Dog", "Cat", "Rain"), ("/m/1", "/m/2", "/m/3")


def trained(encoder: str, folder: Path, **settings: Any) -> Tagger:
    """A tagger as after training, its batch norms moved, saved in `folder`."""
    content = {"encoder": encoder, "projection": "mlp"} | settings
    model = build_tagger(build(TaggerSettings, content), NAMES, IDS, 12, seed=4)
    with torch.no_grad():
        model.train()(clips())
    save_tagger(str(folder), model)
    return model.eval()


def clips() -> Tensor:
    return 0.1 * torch.randn(3, 80_000, generator=torch.Generator().manual_seed(0))


def source(folder: Path, encoder: str = "mn_tiny") -> EncoderSource:
    return build(EncoderSource, {"kind": "tagger", "location": str(folder), "encoder": encoder})


def settings_from(folder: Path, encoder: str = "mn_tiny", **more: Any) -> TaggerSettings:
    start = {"kind": "tagger", "location": str(folder), "encoder": encoder}
    return build(TaggerSettings, {"encoder": encoder, "start": start} | more)


def assert_same_features(one: Any, two: Any) -> None:
    with torch.no_grad():
        expected, found = one(clips()), two(clips())
    assert torch.equal(found.embedding_BW, expected.embedding_BW)
    assert torch.equal(found.map_BWFN, expected.map_BWFN)
    assert not torch.equal(found.embedding_BW[0], found.embedding_BW[1]), "the clips must differ"


@pytest.mark.parametrize("encoder", TINY)
def test_the_encoder_of_a_tagger_has_its_features_to_the_bit(encoder: str, tmp_path: Path):
    model = trained(encoder, tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded = load_encoder(source(tmp_path, encoder), with_classes=False)
    assert torch.equal(before, torch.get_rng_state()), "nothing is drawn"
    assert not loaded.training
    assert (loaded.sample_rate, loaded.crop_samples) == (model.sample_rate, model.crop_samples)
    assert loaded.state_dict().keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.encoder.state_dict().items())
    assert_same_features(model.encoder, loaded)


def test_other_numbers_than_the_registry_has_come_with_the_folder(tmp_path: Path):
    front_end = {"sample_rate": 8000, "max_hz": 3900.0, "hop_samples": 100}
    model = trained("cnn14_tiny", tmp_path, front_end=front_end, network={"channels": [4] * 6}, crop_seconds=2.0)
    loaded = load_encoder(source(tmp_path, "cnn14_tiny"), with_classes=False)
    assert (loaded.sample_rate, loaded.crop_samples, loaded.embedding_width) == (8000, 16_000, 4)
    assert_same_features(model.encoder, loaded)


def test_kernels_that_the_tagger_took_from_a_file_come_along(tmp_path: Path):
    model = build_tagger(
        build(TaggerSettings, {"encoder": "hts_at_tiny", "front_end": {"kernels": "stored"}}), NAMES, IDS, None, seed=4
    )
    kernels = model.encoder.front_end.state_dict()  # of no Fourier transform, so that a computed one would show
    model.encoder.front_end.load_state_dict({name: torch.rand_like(tensor) for name, tensor in kernels.items()})
    save_tagger(str(tmp_path / "first"), model.eval())
    assert_same_features(model.encoder, load_encoder(source(tmp_path / "first", "hts_at_tiny"), with_classes=False))
    second = build_tagger(settings_from(tmp_path / "first", "hts_at_tiny"), NAMES, IDS, None, seed=5).eval()
    assert_same_features(model.encoder, second.encoder)
    save_tagger(str(tmp_path / "second"), second)
    assert_same_features(model.encoder, load_tagger(str(tmp_path / "second")).encoder)


@pytest.mark.parametrize("encoder", TINY)
def test_a_tagger_starts_from_another_tagger_and_needs_it_no_more_once_saved(encoder: str, tmp_path: Path):
    first = trained(encoder, tmp_path / "first")
    settings = settings_from(tmp_path / "first", encoder)
    second = build_tagger(settings, ("Wind", "Horn"), ("/m/8", "/m/9"), None, seed=7).eval()
    assert_same_features(first.encoder, second.encoder)
    fresh = build_tagger(settings.model_copy(update={"start": None}), ("Wind", "Horn"), ("/m/8", "/m/9"), None, seed=7)
    assert torch.equal(second.get_parameter("classifier.weight"), fresh.get_parameter("classifier.weight"))
    save_tagger(str(tmp_path / "second"), second)
    (tmp_path / "first").rename(tmp_path / "gone")
    loaded = load_tagger(str(tmp_path / "second"))
    assert loaded.fingerprint() == second.fingerprint()


@pytest.mark.parametrize(
    ("encoder", "changes"),
    [
        ("cnn14_tiny", {"network": {"block_dropout": 0.1, "embedding_dropout": 0.0, "spec_augment": True}}),
        ("hts_at_tiny", {"network": {"drop_path": 0.3}}),
        ("passt_tiny", {"network": {"patchout_time": 2, "patchout_frequency": 0}, "front_end": {"max_hz_jitter": 100}}),
    ],
)
def test_numbers_that_matter_in_training_alone_may_differ(encoder: str, changes: dict[str, Any], tmp_path: Path):
    first = trained(encoder, tmp_path)
    settings = settings_from(tmp_path, encoder, **changes)
    second = build_tagger(settings, NAMES, IDS, None, seed=7).eval()
    assert_same_features(first.encoder, second.encoder)
    assert second.settings.design.network == settings.design.network
    assert second.settings.design.front_end == settings.design.front_end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"width": 0.3}}, r"network.width is 0.2 there and 0.3 here"),
        ({"front_end": {"hop_samples": 160}}, r"front_end.hop_samples is 320 there and 160 here"),
    ],
)
def test_a_tagger_of_other_numbers_is_refused_with_both(changes: dict[str, Any], message: str, tmp_path: Path):
    """Also those of a front end, which has no weights to tell."""
    trained("mn_tiny", tmp_path)
    with pytest.raises(ConfigError, match=rf"^model.start.location: {tmp_path} does not fit the settings: {message}$"):
        build_tagger(settings_from(tmp_path, **changes), NAMES, IDS, None, seed=7, key="model.start")


def test_a_tagger_with_another_encoder_is_refused_with_both(tmp_path: Path):
    trained("mn_tiny", tmp_path)
    with pytest.raises(
        ConfigError, match=rf"^start.location: {tmp_path} is a tagger with encoder mn_tiny, not passt_tiny$"
    ):
        build_tagger(settings_from(tmp_path, "passt_tiny"), NAMES, IDS, None, seed=7)


def test_the_encoder_of_a_tagger_must_be_said():
    with pytest.raises(ConfigError, match=r"^recipe: encoder: is needed for kind tagger, whose folder may be of any"):
        build(EncoderSource, {"kind": "tagger", "location": "x"})
    with pytest.raises(ConfigError, match=r"^recipe: start: encoder: is needed for kind tagger"):
        build(TaggerSettings, {"start": {"kind": "tagger", "location": "x"}})


def test_a_source_of_another_encoder_than_the_tagger_is_refused_before_any_file_is_read():
    with pytest.raises(ConfigError, match="start is a checkpoint of mn_tiny, encoder is passt_tiny"):
        settings_from(Path("x"), encoder="passt_tiny", start=source(Path("x")).model_dump())


def test_a_folder_that_is_not_there_names_its_setting(tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"^model.start.location: {tmp_path}/no: no raysem checkpoint there"):
        build_tagger(settings_from(tmp_path / "no"), NAMES, IDS, None, seed=0, key="model.start")


def test_a_clap_model_is_no_tagger(tiny_clap: Clap, tmp_path: Path):
    save_model(str(tmp_path), tiny_clap)
    with pytest.raises(DataError, match=rf"^{tmp_path}: is a CLAP model .* expected a tagger"):
        load_encoder(source(tmp_path), with_classes=False)


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def also(*names: str, length: int = 1) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: state | {name: torch.zeros(length) for name in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encoder.network.features.0.0.weight"), r"missing \['features.0.0.weight'\], left over \[\]"),
        (also("encoder.network.odd"), r"missing \[\], left over \['odd'\]"),
        (also("encoder.front_end.melW"), r"missing \[\], left over \['melW'\]"),
        (also("encoder.odd", "more"), r"left over \['encoder.odd', 'more'\]"),
        (also("encoder.network.features.0.1.bias", length=3), r"features.0.1.bias \(3,\) instead of"),
    ],
)
def test_weights_that_do_not_fit_are_listed(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, tmp_path: Path
):
    trained("mn_tiny", tmp_path)
    save_file(change(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=rf"^{tmp_path}: weights do not fit: .*{message}"):
        load_encoder(source(tmp_path), with_classes=False)


@pytest.mark.parametrize("name", ["encoder.network.features.0.0.weight", "classifier.bias"])
def test_a_folder_whose_weights_were_changed_is_refused(name: str, tmp_path: Path):
    trained("mn_tiny", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state[name].view(-1)[0] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=rf"^{tmp_path}: weights have sha256 [0-9a-f]+, config.json says [0-9a-f]+$"):
        load_encoder(source(tmp_path), with_classes=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_seconds": None}, r"settings.crop_seconds: expected"),
        ({"encoder": "mn99"}, r"settings.encoder: expected"),
        ({"network": {"width": 0.2, "odd": 1}}, r"settings.network: odd: no such key"),
        ({"front_end": {"num_mels": 32}}, r"front end of 32 mels, network of 64"),
    ],
)
def test_a_config_that_is_no_taggers_is_one_line(change: dict[str, Any], message: str, tmp_path: Path):
    trained("mn_tiny", tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["settings"] |= change
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/config.json: {message}[^\n]*$"):
        load_encoder(source(tmp_path), with_classes=False)


def ast_folder(folder: Path) -> None:
    """A published AST of three classes, with the numbers of `AST`."""
    torch.manual_seed(1)
    config = ASTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, num_mel_bins=32,
        max_length=200, num_labels=3,
    )  # fmt: skip
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=200).save_pretrained(folder)


AST: dict[str, Any] = {
    "encoder": "ast",
    "front_end": {"num_mels": 32, "num_frames": 200},
    "network": {"width": 24, "depth": 2, "num_heads": 3, "mlp_width": 40, "num_mels": 32, "num_frames": 200},
    "crop_seconds": 1.5,
}


@pytest.fixture
def kept(tmp_path: Path) -> Tagger:
    """A tagger that kept the classifier of a published AST, saved in `tmp_path / "kept"`."""
    ast_folder(tmp_path / "ast")
    start = {"kind": "ast", "location": str(tmp_path / "ast")}
    settings = build(TaggerSettings, AST | {"start": start, "start_classes": True})
    model = build_tagger(settings, NAMES, IDS, None, seed=0).eval()
    save_tagger(str(tmp_path / "kept"), model)
    return model


def test_a_classifier_that_the_tagger_kept_can_be_kept_again(kept: Tagger, tmp_path: Path):
    settings = build(
        TaggerSettings, AST | {"start": source(tmp_path / "kept", "ast").model_dump(), "start_classes": True}
    )
    again = build_tagger(settings, NAMES, IDS, None, seed=1).eval()
    waveform_BT = clips()[:, :24_000]
    with torch.no_grad():
        assert torch.equal(again(waveform_BT).logits_BK, kept(waveform_BT).logits_BK)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("/m/1", "/m/3", "/m/2"), "knows '/m/2' as class 1, the tagger has '/m/3' there"),
        (("/m/1", "/m/2"), "knows 3 classes, the tagger has 2"),
    ],
)
def test_a_kept_classifier_of_other_classes_is_refused(
    ids: tuple[str, ...], message: str, kept: Tagger, tmp_path: Path
):
    settings = build(
        TaggerSettings, AST | {"start": source(tmp_path / "kept", "ast").model_dump(), "start_classes": True}
    )
    with pytest.raises(ConfigError, match=rf"^start_classes: {tmp_path}/kept {message}$"):
        build_tagger(settings, ids, ids, None, seed=1)


def test_a_classifier_that_the_tagger_kept_can_be_left_out(kept: Tagger, tmp_path: Path):
    encoder = load_encoder(source(tmp_path / "kept", "ast"), with_classes=False)
    assert encoder.state_dict().keys() < kept.encoder.state_dict().keys()
    waveform_BT = clips()[:, :24_000]
    with torch.no_grad():
        expected, found = kept.encoder(waveform_BT), encoder(waveform_BT)
    assert torch.equal(found.embedding_BW, expected.embedding_BW)


def test_a_tagger_that_kept_no_classifier_has_none_to_take_over(tmp_path: Path):
    trained("mn_tiny", tmp_path)
    said = rf"^start.location: the tagger of {re.escape(str(tmp_path))} kept no published classifier"
    with pytest.raises(ConfigError, match=said):
        build_tagger(settings_from(tmp_path, start_classes=True), NAMES, IDS, None, seed=1)
    with pytest.raises(ConfigError, match="kept no published classifier"):
        load_encoder(source(tmp_path))


def test_the_numbers_of_a_design_are_checked_where_they_are_given(tmp_path: Path):
    trained("cnn14_tiny", tmp_path)
    same = encoder_design("cnn14_tiny", block_dropout=0.4)
    encoder = load_encoder(source(tmp_path, "cnn14_tiny"), design=same, with_classes=False)
    assert encoder.network.settings == same.network  # type: ignore[union-attr]
    other = encoder_design(
        "cnn14_tiny", front_end=LogMelSettings(sample_rate=16_000, hop_samples=320, max_hz=7000.0).model_dump()
    )
    with pytest.raises(ConfigError, match=r"front_end.max_hz is 8000.0 there and 7000.0 here"):
        load_encoder(source(tmp_path, "cnn14_tiny"), design=other, with_classes=False)
    with pytest.raises(ConfigError, match=r"has a LogMelSettings, expected a PasstMelSettings"):
        load_encoder(source(tmp_path, "cnn14_tiny"), design=encoder_design("mn_tiny"), with_classes=False)
