from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from raysem.audio.augment import AugmentSettings, augment

CLIP_T = np.linspace(-0.5, 0.5, 101, dtype=np.float32)


def augmented(settings: AugmentSettings, *, seed: int = 1, epoch: int = 0, clip_id: str = "a") -> np.ndarray:
    return augment(CLIP_T, settings, 100, seed=seed, epoch=epoch, clip_id=clip_id)


def shift_of(samples_T: np.ndarray) -> int:
    """By how many samples to the right the clip was rolled, from -50 to 50."""
    return (int(np.argmin(samples_T)) + 50) % 101 - 50


def gain_db_of(samples_T: np.ndarray) -> float:
    return float(20 * np.log10(samples_T.max() / 0.5))


def test_nothing_is_done_unless_asked_for():
    assert augmented(AugmentSettings()) is CLIP_T
    assert augmented(AugmentSettings(time_shift_seconds=0.004)) is CLIP_T  # less than half a sample


def test_a_fixed_gain_has_its_closed_form_and_leaves_the_clip_alone():
    before = CLIP_T.copy()
    louder = augmented(AugmentSettings(gain_db=(20.0, 20.0)))
    np.testing.assert_allclose(louder, 10 * CLIP_T, rtol=1e-6)
    assert louder.dtype == np.float32
    augmented(AugmentSettings(gain_db=(-6.0, 6.0), time_shift_seconds=0.2))
    np.testing.assert_array_equal(CLIP_T, before)


def test_gains_fall_evenly_between_their_ends():
    settings = AugmentSettings(gain_db=(-7.0, 5.0))
    gains = np.array([gain_db_of(augmented(settings, clip_id=f"clip{k}")) for k in range(4000)])
    assert gains.min() > -7.001
    assert gains.max() < 5.001
    counts = np.histogram(gains, bins=12, range=(-7.001, 5.001))[0]
    assert abs(counts - 4000 / 12).max() < 5 * np.sqrt(4000 / 12)


def test_a_shift_rolls_the_clip_by_up_to_its_seconds_to_either_side():
    settings = AugmentSettings(time_shift_seconds=0.05)
    shifts = []
    for k in range(2200):
        rolled = augmented(settings, clip_id=f"clip{k}")
        shifts.append(shift_of(rolled))
        np.testing.assert_array_equal(rolled, np.roll(CLIP_T, shifts[-1]))
    counts = np.bincount(np.array(shifts) + 5, minlength=11)
    assert len(counts) == 11
    assert abs(counts - 200).max() < 5 * np.sqrt(200)


def test_draws_are_fixed_by_seed_epoch_and_clip_and_each_has_its_own():
    both = AugmentSettings(gain_db=(-7.0, 5.0), time_shift_seconds=0.3)
    first = augmented(both)
    np.testing.assert_array_equal(first, augmented(both))
    others = [augmented(both, seed=2), augmented(both, epoch=1), augmented(both, clip_id="b")]
    assert len({(shift_of(one), gain_db_of(one)) for one in [first, *others]}) == 4
    alone = augmented(AugmentSettings(gain_db=(-7.0, 5.0)))
    np.testing.assert_array_equal(first, np.roll(alone, shift_of(first)))  # a shift leaves the gain as it is
    draws = [(shift_of(one), gain_db_of(one)) for one in (augmented(both, clip_id=f"clip{k}") for k in range(1000))]
    assert abs(np.corrcoef(np.array(draws).T)[0, 1]) < 0.15


def test_settings_and_clips_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match="expected the lowest gain first, got 6 and -6"):
        AugmentSettings(gain_db=(6.0, -6.0))
    with pytest.raises(ValidationError, match="time_shift_seconds"):
        AugmentSettings(time_shift_seconds=-1)
    with pytest.raises(ValueError, match=r"got shape \(1, 4\)"):
        augment(np.zeros((1, 4), np.float32), AugmentSettings(), 100, seed=0, epoch=0, clip_id="a")
