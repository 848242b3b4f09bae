from __future__ import annotations

import numpy as np
import pytest

from raysem.audio.noise import add_white_noise

TONE_T = (0.3 * np.sin(0.02 * np.pi * np.arange(100_000))).astype(np.float32)


def noise_of(clip_T: np.ndarray, snr_db: float, seed: int = 0) -> np.ndarray:
    noisy_T = add_white_noise(clip_T, snr_db, np.random.default_rng(seed))
    assert noisy_T.dtype == np.float32
    return noisy_T.astype(np.float64) - clip_T


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 10.0, 60.0])
def test_the_powers_of_clip_and_noise_have_the_ratio(snr_db: float):
    """The power of 100000 Gaussian samples varies by sqrt(2 / 100000): 5 of these are 0.1 dB."""
    ratio = np.mean(np.square(TONE_T, dtype=np.float64)) / np.mean(noise_of(TONE_T, snr_db) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.1)


def test_a_louder_clip_has_noise_louder_by_as_much():
    np.testing.assert_allclose(noise_of(4 * TONE_T, 10.0), 4 * noise_of(TONE_T, 10.0), atol=1e-6)
    np.testing.assert_allclose(noise_of(TONE_T, 0.0), 10 * noise_of(TONE_T, 20.0), atol=1e-6)


def test_the_noise_is_white_gaussian_and_knows_nothing_of_the_clip():
    noise_T = noise_of(TONE_T, 10.0)
    noise_T /= noise_T.std()
    spread = 1 / np.sqrt(len(noise_T))
    assert abs(noise_T.mean()) < 5 * spread
    assert abs(np.mean(noise_T**4) - 3) < 5 * np.sqrt(96) * spread
    assert all(abs(np.mean(noise_T[lag:] * noise_T[:-lag])) < 5 * spread for lag in (1, 2, 3, 50, 1000))
    assert abs(np.corrcoef(noise_T, TONE_T)[0, 1]) < 5 * spread


def test_silence_stays_silent_and_the_clip_is_left_alone():
    np.testing.assert_array_equal(add_white_noise(np.zeros(9, np.float32), 0.0, np.random.default_rng(0)), np.zeros(9))
    before_T = TONE_T.copy()
    noise_of(TONE_T, 0.0)
    np.testing.assert_array_equal(TONE_T, before_T)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        add_white_noise(np.zeros((2, 3), np.float32), 10.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        add_white_noise(np.zeros(0, np.float32), 10.0, np.random.default_rng(0))
