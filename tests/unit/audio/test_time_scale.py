from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raysem.audio.time_scale import BLOCK_SAMPLES, scale_time

# Shapes: T samples of the clip, S samples of the scaled clip.

FACTORS = (0.05, 1 / 1.5, 0.999, 1.0, 1.31, 1.5, 4.0)


def noise(num_samples: int) -> np.ndarray:
    return np.random.default_rng(num_samples).standard_normal(num_samples).astype(np.float32)


def test_a_clip_of_twice_and_of_half_its_length_has_its_hand_worked_samples():
    clip_T = np.array([0, 4, 8, 0], np.float32)
    np.testing.assert_array_equal(scale_time(clip_T, 2.0), [0, 1, 3, 5, 7, 6, 2, 0])
    np.testing.assert_array_equal(scale_time(clip_T, 0.5), [2, 4])


def scaled_exactly(samples_T: np.ndarray, num_samples: int) -> np.ndarray:
    """The same with places as fractions of whole numbers, ((2 s + 1) T - S) / 2 S, and float64 samples."""
    twice_S = 2 * num_samples
    places_S = (2 * np.arange(num_samples) + 1) * len(samples_T) - num_samples
    before_S, rest_S = np.divmod(places_S.clip(0, (len(samples_T) - 1) * twice_S), twice_S)
    after_S = np.minimum(before_S + 1, len(samples_T) - 1)
    return (samples_T[before_S] * (twice_S - rest_S).astype(float) + samples_T[after_S] * rest_S) / twice_S


@pytest.mark.parametrize("num_samples", [1, 2, 7, 1000, BLOCK_SAMPLES + 1, 3 * BLOCK_SAMPLES])
@pytest.mark.parametrize("factor", FACTORS)
def test_it_is_exact_interpolation_also_across_blocks(num_samples: int, factor: float):
    clip_T = noise(num_samples)
    scaled_T = scale_time(clip_T, factor)
    assert (len(scaled_T), scaled_T.dtype) == (max(1, round(num_samples * factor)), np.float32)
    np.testing.assert_allclose(scaled_T, scaled_exactly(clip_T, len(scaled_T)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
def test_it_is_torchs_linear_interpolation(factor: float):
    """Of a short clip: torch rounds places to float32 before it takes their whole part."""
    clip_T = noise(1000)
    scaled_T = scale_time(clip_T, factor)
    reference = F.interpolate(torch.from_numpy(clip_T).double()[None, None], size=len(scaled_T), mode="linear")
    np.testing.assert_allclose(scaled_T, reference[0, 0].numpy(), rtol=0, atol=1e-4)


def test_a_factor_of_one_changes_no_bit():
    np.testing.assert_array_equal(scale_time(noise(40_000), 1.0), noise(40_000))


def test_a_tone_moves_in_pitch_by_the_factor():
    rate, hertz, factor = 8000, 400, 1.25
    tone_T = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(scale_time(tone_T, factor)))  # bins of rate / (rate * factor) Hz
    assert spectrum.argmax() / factor == hertz / factor


def test_a_reversed_clip_is_scaled_as_the_clip_is():
    clip_T = noise(999)
    for factor in (0.7, 1.4):
        np.testing.assert_allclose(scale_time(clip_T[::-1], factor), scale_time(clip_T, factor)[::-1], atol=1e-5)


def test_a_straight_line_stays_one_between_its_ends():
    line_T = np.arange(50_000, dtype=np.float32)
    scaled_T = scale_time(line_T, 1.37)
    assert (scaled_T[0], scaled_T[-1]) == (0, 49_999)
    np.testing.assert_allclose(np.diff(scaled_T)[1:-1], 50_000 / len(scaled_T), atol=0.01)


def test_wrong_input_is_named():
    for factor in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"factor must be above 0 and finite, got {factor}"):
            scale_time(noise(4), factor)
    with pytest.raises(ValueError, match=r"got shape \(1, 4\)"):
        scale_time(noise(4)[None], 1.5)
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        scale_time(noise(4)[:0], 1.5)
