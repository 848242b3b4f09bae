"""A tagger over the tiny encoder of each family."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raysem.audio.spec_mask import SpecMaskSettings, mask_spectrogram
from raysem.models.pretrained import EncoderSource
from raysem.models.tagger import Tagged, Tagger, TaggerSettings, build_tagger

TINY = ("cnn14_tiny", "mn_tiny", "ast_tiny", "hts_at_tiny", "passt_tiny")
NAMES, IDS = ("Dog", "Cat", "Rain", "Siren"), ("/m/1", "/m/2", "/m/3", "/m/4")
MASKS = SpecMaskSettings(num_masks_frequency=1, max_bins=20, num_masks_time=1, max_frames=80)


def tagger(encoder: str = "mn_tiny", *, seed: int = 0, text_width: int | None = None, **settings: Any) -> Tagger:
    return build_tagger(TaggerSettings(encoder=encoder, **settings), NAMES, IDS, text_width, seed=seed)


def clips(num_clips: int = 3, num_samples: int = 80_000) -> Tensor:
    """Noise through filters of different width, louder and softer."""
    noise_BT = torch.randn(num_clips, num_samples, generator=torch.Generator().manual_seed(1))
    for clip, noise_T in enumerate(noise_BT):
        noise_T.copy_(noise_T.cumsum(0) / 50 if clip % 2 else noise_T * 0.05 * (clip + 1))
    return noise_BT - noise_BT.mean(dim=1, keepdim=True)


@pytest.fixture(scope="module", params=TINY)
def started(request: pytest.FixtureRequest) -> Tagger:
    """With batch norms that have seen spectrograms, so that clips differ in evaluation mode."""
    model = tagger(request.param, projection="linear", text_width=12)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(clips(4))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


@pytest.fixture
def model(started: Tagger) -> Tagger:
    return copy.deepcopy(started)


def test_clips_become_logits_and_places_in_the_text_space(model: Tagger):
    assert (model.sample_rate, model.crop_samples, model.num_classes) == (16_000, 80_000, 4)
    assert (model.class_names, model.class_ids) == (NAMES, IDS)
    with torch.no_grad():
        tagged = model(clips())
        encoded = model.encoder(clips())
    assert isinstance(tagged, Tagged)
    assert tagged.audio_BD is not None
    assert tagged.logits_BK.shape == (3, 4)
    assert tagged.audio_BD.shape == (3, 12)
    assert torch.equal(tagged.map_BWFN, encoded.map_BWFN)
    expected_BK = encoded.embedding_BW @ model.classifier.weight.T + model.classifier.bias  # type: ignore[union-attr]
    torch.testing.assert_close(tagged.logits_BK, expected_BK)
    assert tagged.logits_BK.std(dim=0).min() > 1e-5, "the clips must differ"


@pytest.mark.parametrize("projection", ["linear", "mlp"])
@pytest.mark.parametrize("encoder", TINY)
def test_every_weight_learns_where_both_outputs_are_used(encoder: str, projection: str):
    """A weight without a gradient would stop distributed training, which waits for all of them."""
    model = tagger(encoder, projection=projection, text_width=12, head_dropout=0.1, spec_mask=MASKS).train()
    tagged = model(clips(4))
    assert tagged.audio_BD is not None
    weight_D = torch.arange(12) - 3.0  # the sum over a layer norm does not depend on its input
    (tagged.logits_BK.square().sum() + (tagged.audio_BD @ weight_D).square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for head in (model.classifier, model.projection):
        assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())  # type: ignore[union-attr]


def test_without_a_projection_every_weight_learns_from_the_logits():
    model = tagger(text_width=12).train()
    assert (model.projection, model.text_width) == (None, None)
    tagged = model(clips(4))
    assert tagged.audio_BD is None
    tagged.logits_BK.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_scores_are_probabilities_in_float32(model: Tagger):
    score_BK = model.score_waveforms(clips().numpy())
    with torch.no_grad():
        expected_BK = torch.sigmoid(model(clips()).logits_BK).numpy()
    assert score_BK.dtype == np.float32
    np.testing.assert_allclose(score_BK, expected_BK, rtol=0, atol=1e-6)


def test_the_score_of_a_clip_does_not_depend_on_its_batch(model: Tagger):
    clips_BT = clips(5).numpy()
    together_BK = model.score_waveforms(clips_BT)
    alone_BK = np.concatenate([model.score_waveforms(clip_T[None]) for clip_T in clips_BT])
    np.testing.assert_allclose(alone_BK, together_BK, rtol=0, atol=2e-6)
    np.testing.assert_allclose(model.score_waveforms(clips_BT[::-1])[::-1], together_BK, rtol=0, atol=2e-6)
    assert np.array_equal(model.score_waveforms(clips_BT), together_BK)


def test_scoring_leaves_mode_statistics_and_generator_as_they_were(model: Tagger):
    model.train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = torch.get_rng_state()
    model.score_waveforms(clips().numpy())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert torch.equal(before, torch.get_rng_state())


def test_heads_are_float32_under_autocast_and_logits_near(model: Tagger):
    with torch.no_grad():
        exact_BK = model(clips()).logits_BK
        with torch.autocast("cpu", torch.bfloat16):
            tagged = model(clips())
    assert tagged.audio_BD is not None
    assert tagged.logits_BK.dtype == tagged.audio_BD.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact_BK, tagged.logits_BK).min() > 0.9
    assert not torch.equal(tagged.logits_BK, tagged.logits_BK.bfloat16().float())


def seen(model: Tagger, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The spectrograms that reach the network."""
    spectrograms: list[Tensor] = []
    encode = model.encoder.network.encode
    monkeypatch.setattr(model.encoder.network, "encode", lambda s: (spectrograms.append(s), encode(s))[1])
    return spectrograms


def test_spectrograms_are_masked_in_training_only_and_as_the_seed_says(monkeypatch: pytest.MonkeyPatch):
    model = tagger(spec_mask=MASKS)  # its front end draws nothing
    spectrograms = seen(model, monkeypatch)
    plain_BNF = model.encoder.spectrogram(clips())
    model.eval()(clips())
    assert torch.equal(spectrograms[-1], plain_BNF)
    model.train()
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        model(clips())
    torch.manual_seed(5)
    expected_BNF = mask_spectrogram(plain_BNF, MASKS)
    assert not torch.equal(expected_BNF, plain_BNF)
    assert torch.equal(spectrograms[1], expected_BNF)
    assert torch.equal(spectrograms[2], expected_BNF)
    assert not torch.equal(spectrograms[3], expected_BNF)


def test_without_masks_training_sees_what_evaluation_sees(monkeypatch: pytest.MonkeyPatch):
    model = tagger()
    spectrograms = seen(model, monkeypatch)
    model.train()(clips())
    model.eval()(clips())
    assert torch.equal(*spectrograms)


def test_dropout_before_the_classifier_leaves_the_projection_alone():
    model = tagger(head_dropout=0.9, projection="linear", text_width=12)
    bare = tagger(head_dropout=0.0, projection="linear", text_width=12)
    dropped, whole = (one.train()(clips()) for one in (model, bare))
    assert not torch.allclose(dropped.logits_BK, whole.logits_BK)
    assert torch.equal(dropped.audio_BD, whole.audio_BD)
    model.load_state_dict(bare.state_dict())
    assert torch.equal(model.eval()(clips()).logits_BK, bare.eval()(clips()).logits_BK)


def test_weights_depend_on_the_seed_alone_and_the_generator_is_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = tagger(seed=3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(8)
    assert tagger(seed=3).fingerprint() == first.fingerprint() != tagger(seed=4).fingerprint()


@pytest.mark.parametrize("encoder", TINY)
def test_a_seed_gives_the_same_encoder_and_classifier_with_a_projection_and_without(encoder: str):
    bare, aligned = tagger(encoder).state_dict(), tagger(encoder, projection="mlp", text_width=12).state_dict()
    assert {name.split(".")[0] for name in aligned.keys() - bare.keys()} == {"projection"}
    assert all(torch.equal(tensor, aligned[name]) for name, tensor in bare.items())


def test_a_fingerprint_tells_weights_settings_and_classes_apart_but_not_where_the_start_lay():
    settings = TaggerSettings(encoder="mn_tiny")

    def printed(settings: TaggerSettings = settings, names: Any = NAMES, ids: Any = IDS, change: float = 0.0) -> str:
        torch.manual_seed(0)
        model = Tagger(settings, names, ids)
        with torch.no_grad():
            model.classifier.bias[0] += change  # type: ignore[union-attr]
        return model.fingerprint()

    same = {
        printed(),
        printed(TaggerSettings(encoder="mn_tiny", crop_seconds=5.0)),
        printed(settings.model_copy(update={"start": EncoderSource(kind="efficientat", location="there.pt")})),
    }
    others = [
        printed(change=0.5),
        printed(names=("Dog", "Cat", "Rain", "Alarm")),
        printed(ids=("/m/1", "/m/2", "/m/4", "/m/3")),
        printed(TaggerSettings(encoder="mn_tiny", crop_seconds=4.0)),
        printed(TaggerSettings(encoder="mn_tiny", head_dropout=0.1)),
    ]
    assert len(same) == 1
    assert len({*same, *others}) == 6


def test_another_crop_length_is_that_of_the_model():
    model = tagger("cnn14_tiny", crop_seconds=2.5)
    assert model.crop_samples == 40_000
    assert model(clips(2, model.crop_samples)).logits_BK.shape == (2, 4)


@pytest.mark.parametrize(
    ("names", "ids", "settings", "message"),
    [
        (NAMES[:3], IDS, {}, "got 3 names and 4 different ids of 4"),
        (NAMES, ("/m/1", "/m/1", "/m/2", "/m/3"), {}, "got 4 names and 3 different ids of 4"),
        ((), (), {}, "got 0 names and 0 different ids of 0"),
        (NAMES, IDS, {"projection": "linear"}, "projection linear leads into the space of the class texts"),
    ],
)
def test_a_mistake_of_the_caller_is_a_value_error(names: Any, ids: Any, settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Tagger(TaggerSettings(encoder="mn_tiny", **settings), names, ids)


def test_waveforms_of_another_form_are_refused():
    model = tagger()
    with pytest.raises(ValueError, match="expected float waveforms"):
        model.score_waveforms(np.zeros(80_000, dtype=np.float32))
    with pytest.raises(ValueError, match="expected float waveforms"):
        model.score_waveforms(np.zeros((1, 80_000), dtype=np.int16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_are_those_of_the_cpu_and_masks_follow_the_seed(model: Tagger):
    clips_BT = clips(4).numpy()
    expected_BK = model.score_waveforms(clips_BT)
    model.to("cuda")
    np.testing.assert_allclose(model.score_waveforms(clips_BT), expected_BK, rtol=0, atol=1e-4)
    spectrogram_BNF = model.encoder.spectrogram(clips())
    masked = []
    for _ in range(2):
        torch.manual_seed(3)
        masked.append(mask_spectrogram(spectrogram_BNF, MASKS))
    assert torch.equal(*masked)
    assert not torch.equal(masked[0], spectrogram_BNF)
