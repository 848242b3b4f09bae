from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from raysem.audio.mixup import mix_waveforms, mixup_ratio


def noise(seed: int, mean: float) -> np.ndarray:
    return (mean + 0.1 * np.random.default_rng(seed).standard_normal(1000)).astype(np.float32)


def test_a_mixture_has_its_closed_form():
    one, other = np.array([3.0, 1.0], np.float32), np.array([0.0, 4.0], np.float32)
    np.testing.assert_allclose(mix_waveforms(one, other, 0.75), [0.75 * 1 - 0.25 * 2, -0.75 * 1 + 0.25 * 2])
    assert mix_waveforms(one, other, 0.75).dtype == np.float32


def test_a_constant_offset_of_either_clip_is_not_mixed_in():
    mixed = mix_waveforms(noise(0, 0.0), noise(1, 0.0), 0.3)
    np.testing.assert_allclose(mix_waveforms(noise(0, 0.5), noise(1, -0.8), 0.3), mixed, atol=1e-6)
    assert abs(mixed.mean()) < 1e-7


def test_a_ratio_of_one_or_zero_is_one_clip_and_clips_can_change_places():
    one, other = noise(0, 0.2), noise(1, 0.1)
    np.testing.assert_allclose(mix_waveforms(one, other, 1.0), one - one.mean(), atol=1e-7)
    np.testing.assert_allclose(mix_waveforms(one, other, 0.0), other - other.mean(), atol=1e-7)
    np.testing.assert_allclose(mix_waveforms(one, other, 0.3), mix_waveforms(other, one, 0.7), atol=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 2.0, 10.0])
def test_ratios_are_spread_as_beta_of_alpha_and_alpha(alpha: float):
    ratios = np.array([mixup_ratio(alpha, seed=0, epoch=k, clip_id=f"clip{k % 7}") for k in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert ratios.min() >= 0
    assert ratios.max() <= 1
    assert abs(ratios.mean() - 0.5) < 5 * np.sqrt(variance / 4000)
    assert ratios.var() == pytest.approx(variance, rel=0.1)


def test_a_ratio_is_fixed_by_seed_epoch_and_clip_in_every_process():
    here = mixup_ratio(10.0, seed=1, epoch=2, clip_id="\u00e4")
    others = {
        mixup_ratio(10.0, seed=s, epoch=e, clip_id=c) for s, e, c in [(2, 2, "\u00e4"), (1, 3, "\u00e4"), (1, 2, "b")]
    }
    assert len(others | {here}) == 4
    code = (
        "from raysem.audio.mixup import mixup_ratio; print(repr(mixup_ratio(10.0, seed=1, epoch=2, clip_id='\u00e4')))"
    )
    environment = {"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout == f"{here!r}\n"


def test_what_cannot_be_mixed_is_named():
    with pytest.raises(ValueError, match=r"got shapes \(3,\) and \(4,\)"):
        mix_waveforms(np.zeros(3, np.float32), np.zeros(4, np.float32), 0.5)
    with pytest.raises(ValueError, match=r"ratio must be from 0 to 1, got 1.5"):
        mix_waveforms(np.zeros(3, np.float32), np.zeros(3, np.float32), 1.5)
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        mixup_ratio(0.0, seed=0, epoch=0, clip_id="a")
