from __future__ import annotations

import numpy as np
import pytest

from raysem.corpora.synthetic_signals import Studio, band, fast_length, filtered, in_room, with_power


def studio(seconds: float = 1.0, sample_rate: int = 16_000, seed: int = 0) -> Studio:
    return Studio(np.random.default_rng(seed), int(seconds * sample_rate), sample_rate)


def level_at(sound_T: np.ndarray, sample_rate: int, hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(sound_T)) * 2 / len(sound_T)
    return float(spectrum[round(hz * len(sound_T) / sample_rate)])


def test_a_tone_has_its_partials_at_multiples_of_its_frequency():
    sound_T = studio().tone(500, [1.0, 0.0, 0.25])
    assert [level_at(sound_T, 16_000, hz) for hz in (500, 1000, 1500)] == pytest.approx([1, 0, 0.25], abs=1e-3)


def test_partials_that_would_alias_are_left_out():
    sound_T = studio(sample_rate=8000).tone(1500, [1.0, 1.0, 1.0])
    assert level_at(sound_T, 8000, 3500) == pytest.approx(0, abs=1e-3)  # where 4500 Hz would fold to
    assert level_at(sound_T, 8000, 3000) == pytest.approx(1, abs=1e-3)


def test_noise_has_unit_power_and_stays_within_its_band():
    sound_T = studio(4).noise(1000, 2000)
    assert float(np.mean(sound_T**2)) == pytest.approx(1, rel=1e-4)
    power_F = np.abs(np.fft.rfft(sound_T)) ** 2
    hz_F = np.fft.rfftfreq(len(sound_T), 1 / 16_000)
    expected_F = band(np.maximum(hz_F, 1), 1000, 2000) ** 2
    for low, high in ((0, 700), (1000, 2000), (2800, 8000)):
        inside_F = (hz_F >= low) & (hz_F < high)
        assert power_F[inside_F].sum() / power_F.sum() == pytest.approx(
            expected_F[inside_F].sum() / expected_F.sum(), abs=0.02
        )


def test_noise_slope_is_in_decibels_per_octave():
    sound_T = studio(20).noise(20, 24_000, slope_db=-6.0206)
    power_F = np.abs(np.fft.rfft(sound_T)) ** 2
    hz_F = np.fft.rfftfreq(len(sound_T), 1 / 16_000)
    octave = [power_F[(hz_F > low) & (hz_F < 1.1 * low)].mean() for low in (500, 1000)]
    assert 10 * np.log10(octave[0] / octave[1]) == pytest.approx(6, abs=0.7)


def test_repeat_places_each_event_at_its_time_and_cuts_the_last_one():
    source = studio(1.0, 1000)
    sound_T = source.repeat([0.1, 0.95, 2.0], lambda number: np.full(100, number + 1, dtype=np.float32))
    assert sound_T[99] == 0
    assert sound_T[100:200].tolist() == [1.0] * 100
    assert sound_T[950:].tolist() == [2.0] * 50


def test_start_times_cover_the_clip():
    starts = studio(5.0).start_times(0.5, jitter=0.0, first=0.1)
    assert starts == pytest.approx([0.1 + 0.5 * k for k in range(10)])


@pytest.mark.parametrize("num_samples", [2, 17, 1000, 16_000, 132_300, 288_000])
def test_fast_lengths_are_even_and_at_most_a_quarter_longer(num_samples: int):
    length = fast_length(num_samples)
    assert length % 2 == 0
    assert num_samples <= length <= max(2, 1.25 * num_samples + 2)


def test_a_filter_of_gain_one_changes_nothing():
    sound_T = studio(0.3).noise()
    np.testing.assert_allclose(filtered(sound_T, 16_000, np.ones_like), sound_T, atol=1e-5)


def test_a_dry_flat_room_changes_nothing():
    source = studio(0.3)
    sound_T = source.noise()
    heard_T = in_room(source, sound_T, reverberation_seconds=0.2, wet=0.0, tilt_db=0.0)
    np.testing.assert_allclose(heard_T, sound_T, atol=1e-5)


def test_silence_keeps_no_power():
    assert not with_power(np.zeros(10, dtype=np.float32)).any()
