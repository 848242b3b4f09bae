from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from raysem import config
from raysem.audio.augment import AUDIOCLIP_AUGMENTATION, AugmentSettings, augment, augment_time
from raysem.audio.time_scale import scale_time

# Shapes: T samples.

CLIP_T = np.linspace(-0.5, 0.5, 101, dtype=np.float32)


def augmented(settings: AugmentSettings, *, seed: int = 1, epoch: int = 0, clip_id: str = "a") -> np.ndarray:
    return augment(CLIP_T, settings, 100, seed=seed, epoch=epoch, clip_id=clip_id)


def retimed(settings: AugmentSettings, *, seed: int = 1, epoch: int = 0, clip_id: str = "a") -> np.ndarray:
    return augment_time(CLIP_T, settings, seed=seed, epoch=epoch, clip_id=clip_id)


def snr_db_of(noisy_T: np.ndarray, clip_T: np.ndarray = CLIP_T) -> float:
    noise_T = noisy_T.astype(np.float64) - clip_T
    return float(10 * np.log10(np.square(clip_T, dtype=np.float64).sum() / np.square(noise_T).sum()))


def shift_of(samples_T: np.ndarray) -> int:
    """By how many samples to the right the clip was rolled, from -50 to 50."""
    return (int(np.argmin(samples_T)) + 50) % 101 - 50


def gain_db_of(samples_T: np.ndarray) -> float:
    return float(20 * np.log10(samples_T.max() / 0.5))


def test_nothing_is_done_unless_asked_for():
    assert augmented(AugmentSettings()) is CLIP_T
    assert augmented(AugmentSettings(time_shift_seconds=0.004)) is CLIP_T  # less than half a sample
    assert retimed(AugmentSettings()) is CLIP_T


def test_each_moment_has_its_own_augmentations():
    before_crop = AugmentSettings(reversal_probability=1.0, time_scale=1.5)
    after_crop = AugmentSettings(gain_db=(-6.0, 6.0), time_shift_seconds=0.2, noise_probability=1.0)
    assert augmented(before_crop) is CLIP_T
    assert retimed(after_crop) is CLIP_T


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


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.8, 1.0])
def test_the_share_of_reversed_clips_is_the_probability(probability: float):
    settings = AugmentSettings(reversal_probability=probability)
    turned = 0
    for k in range(1000):
        clip_T = retimed(settings, clip_id=f"clip{k}")
        backwards = clip_T[0] > 0
        np.testing.assert_array_equal(clip_T, CLIP_T[::-1] if backwards else CLIP_T)
        assert min(clip_T.strides) > 0, "torch takes no negative stride"
        turned += backwards
    assert abs(turned - 1000 * probability) <= 4 * np.sqrt(1000 * probability * (1 - probability))


def test_lengths_are_spread_evenly_in_their_logarithm():
    settings, clip_T = AugmentSettings(time_scale=1.5), np.zeros(10_000, np.float32)
    lengths = [len(augment_time(clip_T, settings, seed=0, epoch=k, clip_id="a")) for k in range(2000)]
    exponents = np.log(np.array(lengths) / 10_000) / np.log(1.5)
    assert np.abs(exponents).max() < 1.001
    counts = np.histogram(exponents, bins=8, range=(-1.001, 1.001))[0]
    assert abs(counts - 250).max() < 5 * np.sqrt(250)


def test_a_scaled_clip_is_the_whole_clip_at_its_new_length_and_scaled_after_it_was_reversed():
    lengths = set()
    for k in range(20):
        scaled_T = retimed(AugmentSettings(time_scale=1.5), clip_id=f"clip{k}")
        lengths.add(len(scaled_T))
        np.testing.assert_allclose(scaled_T, scale_time(CLIP_T, len(scaled_T) / len(CLIP_T)), atol=1e-7)
        both_T = retimed(AugmentSettings(time_scale=1.5, reversal_probability=1.0), clip_id=f"clip{k}")
        np.testing.assert_array_equal(both_T, scale_time(CLIP_T[::-1], len(scaled_T) / len(CLIP_T)))
    assert len(lengths) > 10


def test_reversal_and_length_have_draws_of_their_own():
    both = AugmentSettings(time_scale=1.5, reversal_probability=0.5)
    clips = [retimed(both, epoch=k) for k in range(1000)]
    alone = [retimed(AugmentSettings(time_scale=1.5), epoch=k) for k in range(1000)]
    assert [len(one) for one in clips] == [len(one) for one in alone]
    draws = np.array([(len(one), one[0] > one[-1]) for one in clips], float)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.15
    np.testing.assert_array_equal(retimed(both), clips[0])
    scale = AugmentSettings(time_scale=4.0)
    others = [retimed(scale, seed=2), retimed(scale, epoch=1), retimed(scale, clip_id="b")]
    assert len({len(one) for one in [retimed(scale), *others]}) == 4


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_the_share_of_noisy_crops_is_the_probability(probability: float):
    settings = AugmentSettings(noise_probability=probability)
    noisy = sum(augmented(settings, clip_id=f"clip{k}") is not CLIP_T for k in range(1000))
    assert abs(noisy - 1000 * probability) <= 4 * np.sqrt(1000 * probability * (1 - probability))


def test_noise_ratios_are_spread_evenly_in_db():
    settings = AugmentSettings(noise_probability=1.0, noise_snr_db=(10.0, 50.0))
    clip_T = np.sin(np.arange(10_000)).astype(np.float32)  # its power is measured to 0.06 dB
    noisy = [augment(clip_T, settings, 100, seed=0, epoch=k, clip_id="a") for k in range(1000)]
    ratios = np.array([snr_db_of(one, clip_T) for one in noisy])
    counts = np.histogram(ratios, bins=8, range=(9.7, 50.3))[0]
    assert counts.sum() == 1000
    assert abs(counts - 125).max() < 5 * np.sqrt(125)


def test_noise_follows_gain_and_shift_with_draws_of_its_own():
    noise = AugmentSettings(noise_probability=1.0, noise_snr_db=(0.0, 20.0))
    alone_T = augmented(noise)
    louder_T = augmented(AugmentSettings(gain_db=(20.0, 20.0), noise_probability=1.0, noise_snr_db=(0.0, 20.0)))
    np.testing.assert_allclose(louder_T, 10 * alone_T, rtol=1e-4)
    shift = AugmentSettings(time_shift_seconds=0.3)
    both_T = augmented(AugmentSettings(time_shift_seconds=0.3, noise_probability=1.0, noise_snr_db=(0.0, 20.0)))
    np.testing.assert_allclose(both_T - augmented(shift), alone_T - CLIP_T, atol=1e-6)
    rare = AugmentSettings(noise_probability=0.5, noise_snr_db=(0.0, 20.0))
    for k in range(40):  # where there is noise, it is that of another probability
        if (one := augmented(rare, epoch=k)) is not CLIP_T:
            np.testing.assert_array_equal(one, augmented(noise, epoch=k))
    others = [augmented(noise, seed=2), augmented(noise, epoch=1), augmented(noise, clip_id="b")]
    assert len({one.tobytes() for one in [alone_T, *others]}) == 4
    np.testing.assert_array_equal(alone_T, augmented(noise))


def test_which_crops_get_noise_says_nothing_of_their_gain_shift_or_reversal():
    settings = AugmentSettings(noise_probability=0.5, reversal_probability=0.5)
    moved = AugmentSettings(gain_db=(-7.0, 5.0), time_shift_seconds=0.3)
    draws = []
    for k in range(1000):
        moved_T, reversed_T = augmented(moved, epoch=k), retimed(settings, epoch=k)
        noisy = augmented(settings, epoch=k) is not CLIP_T
        draws.append((noisy, gain_db_of(moved_T), shift_of(moved_T), reversed_T[0] > 0))
    assert np.abs(np.corrcoef(np.array(draws, float).T) - np.eye(4)).max() < 0.15


def test_silence_stays_silent_and_no_clip_is_changed_in_place():
    silent_T = np.zeros(500, np.float32)
    loud = AUDIOCLIP_AUGMENTATION.model_copy(update={"noise_probability": 1.0, "reversal_probability": 1.0})
    np.testing.assert_array_equal(augment(silent_T, loud, 100, seed=0, epoch=0, clip_id="a"), silent_T)
    before_T = CLIP_T.copy()
    assert augmented(loud) is not CLIP_T
    assert retimed(loud) is not CLIP_T
    np.testing.assert_array_equal(CLIP_T, before_T)


def test_the_constant_holds_what_audioclip_and_semanticac_print():
    settings = AUDIOCLIP_AUGMENTATION
    assert (settings.reversal_probability, settings.time_scale, settings.pad) == (0.5, 1.5, "edge")
    assert (settings.noise_probability, settings.noise_snr_db) == (0.25, (10.0, 120.0))
    assert (settings.gain_db, settings.time_shift_seconds) == ((0.0, 0.0), 0.0)


def test_settings_at_their_defaults_are_written_as_before_there_were_more():
    assert config.plain(AugmentSettings()) == {"gain_db": [0.0, 0.0], "time_shift_seconds": 0.0}
    # from the code before reversal, scaling, padding and noise
    assert config.digest(AugmentSettings()) == "f4f4490ce406"
    assert config.digest(AugmentSettings(gain_db=(-7.0, 6.0), time_shift_seconds=0.0015625)) == "1312d9195f2e"


@pytest.mark.parametrize(
    "change",
    [
        {"reversal_probability": 0.5}, {"time_scale": 1.5}, {"pad": "edge"}, {"noise_probability": 0.25},
        {"noise_snr_db": [10.0, 60.0]},
    ],
)  # fmt: skip
def test_a_setting_that_is_not_at_its_default_is_written_and_read_back(change: dict):
    settings = config.build(AugmentSettings, change)
    assert config.plain(settings) == {"gain_db": [0.0, 0.0], "time_shift_seconds": 0.0} | change
    assert config.build(AugmentSettings, config.plain(settings)) == settings
    assert config.digest(settings) != config.digest(AugmentSettings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reversal_probability": 1.1}, "reversal_probability: expected less than or equal to 1, got 1.1"),
        ({"noise_probability": -0.1}, "noise_probability: expected greater than or equal to 0, got -0.1"),
        ({"time_scale": 0.5}, "time_scale: expected greater than or equal to 1, got 0.5"),
        ({"time_scale": 150}, "time_scale: expected less than or equal to 4, got 150"),
        ({"pad": "edges"}, "pad: expected 'zero' or 'edge', got 'edges'"),
        ({"noise_snr_db": [120, 10]}, "noise_snr_db: expected the lowest ratio first, got 120 and 10"),
        ({"noise_snr_db": [10, 1000]}, r"noise_snr_db.1: expected less than or equal to 140, got 1000"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(change: dict, message: str):
    with pytest.raises(config.ConfigError) as caught:
        config.build(AugmentSettings, change, "recipe")
    assert str(caught.value) == f"recipe: {message}"


def test_settings_and_clips_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match="expected the lowest gain first, got 6 and -6"):
        AugmentSettings(gain_db=(6.0, -6.0))
    with pytest.raises(ValidationError, match="time_shift_seconds"):
        AugmentSettings(time_shift_seconds=-1)
    with pytest.raises(ValueError, match=r"got shape \(1, 4\)"):
        augment(np.zeros((1, 4), np.float32), AugmentSettings(), 100, seed=0, epoch=0, clip_id="a")
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        augment_time(CLIP_T[:0], AugmentSettings(), seed=0, epoch=0, clip_id="a")
