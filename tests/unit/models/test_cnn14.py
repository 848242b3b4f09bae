from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raysem.errors import ConfigError
from raysem.models.cnn14 import Cnn14, Cnn14Settings
from raysem.models.registry import AUDIO_ENCODERS, audio_encoder_settings, build_audio_encoder

CHANNELS = (4, 4, 4, 8, 8, 16)


def tiny(**settings: object) -> Cnn14:
    torch.manual_seed(0)
    return Cnn14(Cnn14Settings.model_validate({"channels": CHANNELS, "num_mels": 32} | settings))


def logmel(num_clips: int = 3, num_frames: int = 40) -> Tensor:
    return torch.randn(num_clips, num_frames, 32, generator=torch.Generator().manual_seed(1))


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_cnn14_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = build_audio_encoder("cnn14", num_classes=527)
        bare = build_audio_encoder("cnn14")
    # PANNs' table, without the fixed STFT kernels and mel matrix.
    assert round(count(model) / 1e6, 2) == 80.75
    assert count(model) - count(bare) == 2049 * 527
    assert len(model.state_dict()) == 84 - 3
    assert list(bare.state_dict())[:6] == [*(f"bn0.{n}" for n in BN), "conv_block1.conv1.weight"]
    assert {name.split(".")[0] for name in bare.state_dict()} == {
        "bn0",
        "fc1",
        *(f"conv_block{block}" for block in range(1, 7)),
    }


BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_each_clip_has_one_row_that_does_not_depend_on_the_batch():
    model, clips = tiny().eval(), logmel(5)
    together_BW = model(clips)
    assert together_BW.shape == (5, 16)
    alone_BW = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together_BW, alone_BW, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(clips.flip(0)), together_BW.flip(0), rtol=0, atol=1e-6)


def test_a_constant_spectrogram_of_more_frames_has_the_same_embedding_inside():
    """Mean and maximum over time do not grow with the length; only the zero padding at the ends differs."""
    model = tiny().eval()
    with torch.no_grad():
        long_W, longer_W = (model(torch.full((1, frames, 32), -20.0))[0] for frames in (6400, 12_800))
    torch.testing.assert_close(long_W, longer_W, rtol=0.05, atol=1e-3)


def test_every_weight_has_a_gradient():
    model = tiny()
    model(logmel()).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_dropout_follows_the_seed():
    model, clips = tiny(), logmel()
    torch.manual_seed(5)
    first_BW = model(clips)
    assert not torch.equal(first_BW, model(clips))
    torch.manual_seed(5)
    assert torch.equal(first_BW, model(clips))


def test_spec_augment_masks_in_training_only():
    quiet = {"block_dropout": 0.0, "embedding_dropout": 0.0}
    model, plain = tiny(spec_augment=True, **quiet), tiny(**quiet)
    clips = logmel(num_frames=200)
    assert not torch.equal(model(clips), plain(clips))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(clips), plain.eval()(clips))


@pytest.mark.parametrize("shape", [(2, 31, 32), (2, 40, 31), (40, 32)])
def test_another_shape_is_refused_with_what_was_expected(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"at least 32 frames, 32 mels\), got \("):
        tiny()(torch.zeros(shape))


def test_class_probabilities_lie_between_0_and_1():
    model = tiny(num_classes=5).eval()
    probability_BK = model.class_probabilities(model(logmel()))
    assert probability_BK.shape == (3, 5)
    assert ((probability_BK > 0) & (probability_BK < 1)).all()


def test_the_tiny_one_is_small_enough_for_a_cpu():
    assert count(build_audio_encoder("cnn14_tiny")) < 1.5e6


def test_channels_can_be_chosen():
    settings = audio_encoder_settings("cnn14_tiny", channels=CHANNELS, num_mels=32)
    assert (settings.channels, settings.num_mels, settings.embedding_width) == (CHANNELS, 32, 16)
    assert audio_encoder_settings("cnn14") == AUDIO_ENCODERS["cnn14"]


def test_a_wrong_name_or_number_of_channels_is_refused():
    with pytest.raises(ConfigError, match=r"no encoder 'cnn15'; there are \['cnn14', 'cnn14_tiny'\]"):
        build_audio_encoder("cnn15")
    with pytest.raises(ConfigError, match=r"audio_channels: expected 6 numbers, got \[1, 2\]"):
        build_audio_encoder("cnn14", channels=(1, 2))
