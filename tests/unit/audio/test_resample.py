from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio

from raysem.audio import resample as resample_module
from raysem.audio.resample import resample

RATES = [(48_000, 44_100), (44_100, 48_000), (22_050, 44_100), (8000, 44_100), (192_000, 44_100), (11_025, 16_000)]


def _noise(num_samples: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_it_is_torchaudios_filter(from_rate: int, to_rate: int) -> None:
    samples_T = _noise(5001)
    expected_T = torchaudio.functional.resample(torch.from_numpy(samples_T).double(), from_rate, to_rate).numpy()
    np.testing.assert_allclose(resample(samples_T, from_rate, to_rate), expected_T, atol=5e-6)


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
def test_the_direct_sum_is_the_slow_twin_of_the_kernel(
    from_rate: int, to_rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples_T = _noise(3000)
    fast_T = resample(samples_T, from_rate, to_rate)
    monkeypatch.setattr(resample_module, "MAX_KERNEL_ELEMENTS", 0)
    np.testing.assert_allclose(fast_T, resample(samples_T, from_rate, to_rate), atol=5e-6)


@pytest.mark.parametrize("num_samples", [1, 2, 147, 160, 44_101])
@pytest.mark.parametrize(("from_rate", "to_rate"), [*RATES, (44_101, 44_100)])
def test_the_length_is_exact(num_samples: int, from_rate: int, to_rate: int) -> None:
    assert len(resample(_noise(num_samples), from_rate, to_rate)) == math.ceil(num_samples * to_rate / from_rate)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    samples_T = _noise(50_000)
    for rates in [(48_000, 44_100), (44_101, 44_100)]:
        at_once_T = resample(samples_T, *rates)
        with monkeypatch.context() as patch:
            patch.setattr(resample_module, "BLOCK_SAMPLES", 5000)
            np.testing.assert_allclose(resample(samples_T, *rates), at_once_T, atol=2e-6)


def test_a_tone_stays_the_same_tone() -> None:
    tone_T = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000).astype(np.float32)
    for to_rate in (44_100, 16_000, 44_101):
        expected_T = np.sin(2 * np.pi * 1000 * np.arange(to_rate) / to_rate)
        np.testing.assert_allclose(resample(tone_T, 48_000, to_rate)[100:-100], expected_T[100:-100], atol=2e-3)


def test_channels_are_resampled_one_by_one() -> None:
    samples_CT = _noise(2000).reshape(2, 1000)
    expected_CT = np.stack([resample(samples_T, 48_000, 44_100) for samples_T in samples_CT])
    np.testing.assert_array_equal(resample(samples_CT, 48_000, 44_100), expected_CT)


def test_equal_rates_change_nothing() -> None:
    np.testing.assert_array_equal(resample(_noise(100), 16_000, 16_000), _noise(100))


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="sample rates are positive, got 0 and 16000 Hz"):
        resample(_noise(10), 0, 16_000)
    with pytest.raises(ValueError, match="expected samples of shape"):
        resample(np.zeros((1, 2, 3)), 8000, 16_000)
