"""The bounds that the numbers give, against what encoders in training take and refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raysem.models.crop_length import check_crop, frame_bounds, num_frames, sample_bounds
from raysem.models.registry import WAVEFORM_ENCODERS, EncoderDesign, build_front_end, build_network

TINY = ("cnn14_tiny", "mn_tiny", "ast_tiny", "hts_at_tiny", "passt_tiny")


def network_takes(design: EncoderDesign, frames: int) -> bool:
    network = build_network(design.network).train()
    try:
        with torch.no_grad():
            network.encode(torch.randn(2, frames, design.network.num_mels))
    except ValueError:
        return False
    return True


def front_end_takes(design: EncoderDesign, num_samples: int) -> bool:
    try:
        build_front_end(design.front_end)(torch.zeros(1, num_samples))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", TINY)
def test_the_bounds_are_those_at_which_an_encoder_begins_and_ends_to_take_clips(name: str):
    design = WAVEFORM_ENCODERS[name]
    for takes, (least, most) in (
        (network_takes, frame_bounds(design.network)),
        (front_end_takes, sample_bounds(design.front_end)),
    ):
        assert takes(design, least)
        assert least == 1 or not takes(design, least - 1)
        if most is not None:
            assert takes(design, most)
            assert not takes(design, most + 1)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("num_samples", [8000, 8001, 48_319, 48_320, 80_000])
def test_frames_are_counted_as_the_front_end_makes_them(name: str, num_samples: int):
    settings = WAVEFORM_ENCODERS[name].front_end
    assert num_frames(settings, num_samples) == build_front_end(settings)(torch.zeros(1, num_samples)).shape[1]


@pytest.mark.parametrize("name", WAVEFORM_ENCODERS)
def test_every_encoder_takes_the_clips_that_it_is_made_for(name: str):
    check_crop(WAVEFORM_ENCODERS[name])


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("ast", 11.0, "^crop_seconds 11 gives 176000 samples, the encoder takes 400 to 164239$"),
        ("hts_at", 12.0, "^crop_seconds 12 gives 1201 frames, the encoder takes 1 to 1024$"),
        ("passt_s", 12.0, "^crop_seconds 12 gives 1200 frames, the encoder takes 416 to 1005$"),
        ("passt_s", 4.0, "gives 400 frames"),
        ("cnn14", 0.25, "^crop_seconds 0.25 gives 26 frames, the encoder takes at least 32$"),
        ("mn10", 0.01, "^crop_seconds 0.01 gives 320 samples, the encoder takes at least 514$"),
    ],
)
def test_clips_of_another_length_are_refused_with_the_bounds(name: str, seconds: float, message: str):
    with pytest.raises(ValueError, match=message):
        check_crop(replace(WAVEFORM_ENCODERS[name], crop_seconds=seconds))
