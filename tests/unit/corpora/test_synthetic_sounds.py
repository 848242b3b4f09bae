from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from raysem.corpora.synthetic_signals import Studio
from raysem.corpora.synthetic_sounds import CAPTIONED_SOUNDS, DOMAIN_SOUNDS, LOWEST_SAMPLE_RATE, SOUNDS, WILD_SOUNDS
from raysem.corpora.synthetic_surroundings import background, bleeps, hush, noise_alone

AUDIOSET = Path(os.environ.get("RAYSEM_SHARED_DATA", Path(__file__).parents[4] / "shared/data")) / "audioset"


def test_there_are_enough_classes_and_no_class_stands_in_two_groups():
    assert len(DOMAIN_SOUNDS) == 15
    assert len(SOUNDS) == len(DOMAIN_SOUNDS) + len(CAPTIONED_SOUNDS) + len(WILD_SOUNDS) == 35


def test_every_class_has_its_audioset_display_name():
    table = AUDIOSET / "class_labels_indices.csv"
    if not table.exists():
        pytest.skip(f"AudioSet's class list is not at {table}; set RAYSEM_SHARED_DATA")
    with table.open(newline="") as handle:
        names = {row["display_name"] for row in csv.DictReader(handle)}
    assert set(SOUNDS) <= names


@pytest.mark.parametrize("label", SOUNDS)
def test_every_class_sounds_at_every_rate_it_is_drawn_at(label: str):
    for sample_rate in (8000, 16_000, 44_100):
        if sample_rate < LOWEST_SAMPLE_RATE.get(label, 8000):
            continue
        for seed in range(3):
            sound_T = SOUNDS[label](Studio(np.random.default_rng(seed), 3 * sample_rate, sample_rate))
            assert sound_T.shape == (3 * sample_rate,)
            assert sound_T.dtype == np.float32
            assert np.isfinite(sound_T).all()
            assert float(np.sqrt(np.mean(sound_T**2))) > 1e-3


@pytest.mark.parametrize("label", ["Siren", "Rain", "Bark"])
def test_one_seed_gives_one_sound_and_another_seed_another(label: str):
    first, again, other = (SOUNDS[label](Studio(np.random.default_rng(seed), 16_000, 16_000)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("make", [background, bleeps, noise_alone])
def test_what_is_no_class_can_be_heard(make):
    for seed in range(6):
        assert np.abs(make(Studio(np.random.default_rng(seed), 32_000, 16_000))).max() > 0.01


def test_hush_stays_far_below_hearing():
    peaks = [np.abs(hush(Studio(np.random.default_rng(seed), 16_000, 16_000))).max() for seed in range(10)]
    assert max(peaks) <= 3e-6
    assert min(peaks) == 0
