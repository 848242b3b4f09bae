"""What every encoder promises, shown on the tiny one of each family; the numbers of the large ones."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raysem.audio.logmel import LogMelSettings
from raysem.errors import ConfigError
from raysem.models.ast import AstSettings
from raysem.models.complexity import PUBLISHED, complexity
from raysem.models.encoder import AudioEncoder, EncodedAudio, WaveformEncoder
from raysem.models.registry import (
    WAVEFORM_ENCODERS,
    EncoderDesign,
    build_network,
    build_waveform_encoder,
    encoder_design,
)

TINY = ("cnn14_tiny", "mn_tiny", "ast_tiny", "hts_at_tiny", "passt_tiny")
MAPS = {
    "cnn14_tiny": (256, 2, 7),
    "mn_tiny": (192, 2, 8),
    "ast_tiny": (96, 4, 32),
    "hts_at_tiny": (96, 4, 16),
    "passt_tiny": (96, 4, 15),
}


@pytest.fixture(scope="module", params=TINY)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def started(name: str) -> WaveformEncoder:
    """With random weights; batch norms that have seen spectrograms, so that clips differ in evaluation mode."""
    torch.manual_seed(0)
    encoder = build_waveform_encoder(name, num_classes=7).train()
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        encoder(clips(4))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return encoder.eval()


@pytest.fixture
def encoder(started: WaveformEncoder) -> WaveformEncoder:
    return copy.deepcopy(started)


def clips(num_clips: int = 3, num_samples: int = 80_000) -> Tensor:
    """Noise through filters of different width, louder and softer."""
    noise_BT = torch.randn(num_clips, num_samples, generator=torch.Generator().manual_seed(1))
    for clip, noise_T in enumerate(noise_BT):
        noise_T.copy_(noise_T.cumsum(0) / 50 if clip % 2 else noise_T * 0.05 * (clip + 1))
    return noise_BT - noise_BT.mean(dim=1, keepdim=True)


def test_waveforms_become_one_embedding_and_one_map_each(name: str, encoder: WaveformEncoder):
    assert isinstance(encoder, AudioEncoder)
    assert (encoder.sample_rate, encoder.crop_samples) == (16_000, 80_000)
    with torch.no_grad():
        encoded = encoder(clips())
        logits_BK = encoder.class_logits(encoded)
    assert encoded.map_BWFN.shape == (3, *MAPS[name])
    assert encoded.embedding_BW.shape == (3, encoder.embedding_width) == (3, MAPS[name][0])
    assert encoded.embedding_BW.dtype == torch.float32
    assert logits_BK.shape == (3, 7)
    assert logits_BK.isfinite().all()


def test_a_clip_gives_the_same_whatever_its_batch(encoder: WaveformEncoder):
    waveform_BT = clips(5)
    with torch.no_grad():
        together = encoder(waveform_BT)
        alone = [encoder(waveform_T[None]) for waveform_T in waveform_BT]
        backwards = encoder(waveform_BT.flip(0))
    spread = together.embedding_BW.std(dim=0).mean()
    assert spread > 1e-4, "the clips must differ for this to say anything"
    for field in ("embedding_BW", "map_BWFN"):
        expected = getattr(together, field)
        tolerance = {"rtol": 1e-3, "atol": 1e-3 * float(expected.std())}
        torch.testing.assert_close(torch.cat([getattr(one, field) for one in alone]), expected, **tolerance)
        torch.testing.assert_close(getattr(backwards, field).flip(0), expected, **tolerance)


def test_nothing_is_drawn_in_evaluation(encoder: WaveformEncoder):
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = encoder(clips()), encoder(clips())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.embedding_BW, second.embedding_BW)


def test_the_spectrogram_is_float32_under_autocast_and_the_embedding_near(encoder: WaveformEncoder):
    waveform_BT = clips()
    with torch.no_grad():
        exact_BW = encoder(waveform_BT).embedding_BW
        with torch.autocast("cpu", torch.bfloat16):
            spectrogram_BNF = encoder.spectrogram(waveform_BT)
            near_BW = encoder(waveform_BT).embedding_BW.float()
    assert torch.equal(spectrogram_BNF, encoder.spectrogram(waveform_BT))
    assert torch.nn.functional.cosine_similarity(exact_BW, near_BW).min() > 0.9


def test_a_call_is_its_two_halves(encoder: WaveformEncoder):
    with torch.no_grad():
        encoded = encoder.network.encode(encoder.spectrogram(clips()))
        assert torch.equal(encoded.embedding_BW, encoder(clips()).embedding_BW)


def test_every_weight_learns(encoder: WaveformEncoder):
    """A weight without a gradient would stop distributed training, which waits for all of them."""
    encoder.train()
    encoder.class_logits(encoder(clips(4))).square().sum().backward()
    idle = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert not idle
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters() if parameter.grad is not None)


def test_shorter_clips_are_fine(encoder: WaveformEncoder):
    with torch.no_grad():
        encoded = encoder(clips(2, 35_000))
    assert encoded.embedding_BW.isfinite().all()
    assert encoded.map_BWFN.shape[:2] == (2, encoder.embedding_width)


def test_spectrograms_of_another_form_are_refused(name: str, encoder: WaveformEncoder):
    for shape in ((2, 400), (2, 400, 63), (2, 0, 64)):
        with pytest.raises(ValueError, match=r"expected (spectrograms|a log-mel batch) \(clips"):
            encoder.network.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="expected waveforms"):
        encoder(torch.zeros(80_000))
    if name in ("ast_tiny", "hts_at_tiny", "passt_tiny"):
        with pytest.raises(ValueError, match=r"expected (spectrograms|waveforms)"):
            encoder(torch.zeros(1, 200_000))


def test_the_same_seed_gives_the_same_weights(name: str):
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(build_waveform_encoder(name).state_dict())
    same = [torch.equal(models[0][key], models[1][key]) for key in models[0]]
    other = [torch.equal(models[0][key], models[2][key]) for key in models[0]]
    assert all(same)
    assert not all(other)


def test_without_classes_there_is_no_classifier(name: str):
    bare, whole = build_waveform_encoder(name), build_waveform_encoder(name, num_classes=7)
    extra = whole.state_dict().keys() - bare.state_dict().keys()
    assert bare.state_dict().keys() < whole.state_dict().keys()
    prefixes = {key.removeprefix("network.").split(".")[0] for key in extra}
    assert prefixes <= {"fc_audioset", "classifier", "head", "tscam_conv"}
    assert len(prefixes) == 1


def test_an_unknown_encoder_is_refused_with_the_names_that_exist():
    with pytest.raises(ConfigError, match=r"encoder: no encoder 'vgg'; there are \['ast', 'ast_tiny', 'cnn14'"):
        encoder_design("vgg")


def test_other_fields_take_effect_and_unknown_ones_are_refused():
    design = encoder_design("passt_tiny", front_end={"hop_samples": 160}, patchout_time=2)
    assert (design.front_end.hop_samples, design.network.patchout_time) == (160, 2)
    with pytest.raises(ValidationError, match="patchout"):
        encoder_design("passt_tiny", patchout=2)


def test_a_front_end_that_does_not_fit_the_network_is_refused():
    with pytest.raises(ConfigError, match="front end of 64 mels, network of 128"):
        EncoderDesign(LogMelSettings(), AstSettings())
    with pytest.raises(ConfigError, match="front end of 512 frames, network of 1024"):
        encoder_design("ast", front_end={"num_frames": 512})


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_encoder_is_as_large_and_costs_as_much_as_its_authors_say(name: str):
    ours, published = complexity(name), PUBLISHED[name]
    parameters = ours.parameters + LEFT_OUT.get(name, 0)
    printed = {"cnn14": 0, "mn04": 1e3, "ast": 5e5, "hts_at": 5e5, "passt_s": 5e5}.get(name, 5e3)
    assert parameters == pytest.approx(published.parameters, abs=printed, rel=0)
    if published.multiply_adds is not None:
        front_end = STFT if name == "cnn14" else 0
        assert ours.multiply_adds + front_end == pytest.approx(published.multiply_adds, rel=0.02)


STFT = 1001 * 513 * 1024 * 2
"""Multiply-adds of a Fourier transform by convolution, which PANNs counts."""
LEFT_OUT = {"hts_at": 527 * 528 + 2 * 513 * 1024 + 513 * 64, "passt_s": 769 * 527}
"""Tensors of the checkpoint that are no parameters here: see `PUBLISHED`."""


def test_the_tiny_encoders_are_tiny():
    for name in TINY:
        found = complexity(name)
        assert found.parameters < 1.5e6
        assert found.multiply_adds < 1e8


def test_ten_seconds_give_the_published_maps():
    """(768, 8, 8) of HTS-AT is (768, 2, 32) unfolded."""
    maps = {
        "cnn14": (2048, 2, 31),
        "mn10": (960, 4, 32),
        "ast": (768, 12, 101),
        "hts_at": (768, 2, 32),
        "passt_s": (768, 12, 99),
    }
    for name, expected in maps.items():
        design = WAVEFORM_ENCODERS[name]
        frames = 1001 if isinstance(design.front_end, LogMelSettings) else 1024 if name == "ast" else 1000
        with torch.device("meta"):
            network = build_network(design.network).eval()
            encoded = network.encode(torch.zeros(2, frames, design.network.num_mels))
        assert isinstance(encoded, EncodedAudio)
        assert encoded.map_BWFN.shape == (2, *expected)
