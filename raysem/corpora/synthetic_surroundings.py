"""Weather, water and fire by arithmetic, and what is no class at all: backgrounds, bleeps, silence."""

from __future__ import annotations

import numpy as np

from raysem.corpora.synthetic_signals import Samples, Studio, filtered, resonances, with_power


def rain(studio: Studio) -> Samples:
    bed_T = studio.noise(studio.pitch(300, 1500), studio.pitch(5000, 14000), slope_db=studio.between(-3, 1))
    centre, quality = studio.pitch(1500, 6000), studio.between(0.7, 3)
    drops_T = filtered(
        studio.drops(studio.pitch(20, 400)), studio.sample_rate, lambda hz_F: resonances(hz_F, [centre], quality)
    )
    return bed_T + np.float32(studio.between(0.3, 1.5)) * with_power(drops_T)


def wind(studio: Studio) -> Samples:
    gusts_T = studio.wander(studio.between(0.5, 1.5), 0.15, 1.0)
    low_T = studio.noise(40, studio.pitch(250, 900), slope_db=-3) * gusts_T
    howl = studio.pitch(350, 1100)
    howl_T = studio.noise(howl * 0.92, howl * 1.08) * gusts_T**2
    return low_T + np.float32(studio.between(0, 0.9)) * howl_T


def waves(studio: Studio) -> Samples:
    turns_T = studio.times / np.float32(studio.between(2.5, 6)) + np.float32(studio.rng.uniform())
    surge_T = (0.5 - 0.5 * np.cos(2 * np.pi * turns_T)) ** 2
    rush_T = studio.noise(120, studio.pitch(2500, 8000), slope_db=-2)
    return rush_T * (np.float32(studio.between(0.08, 0.3)) + surge_T.astype(np.float32))


def thunder(studio: Studio) -> Samples:
    def one(_: int) -> Samples:
        bit = studio.part(studio.between(1.5, 4))
        roll_T = bit.noise(25, studio.pitch(120, 600), slope_db=-4) * bit.wander(8, 0.2, 1)
        crack_T = bit.noise(200, 6000) * bit.decay(studio.between(0.03, 0.2))
        return roll_T * bit.decay(bit.duration_seconds / 3) + np.float32(studio.between(0, 0.7)) * crack_T

    return studio.repeat(studio.start_times(studio.between(2, 4), jitter=0.3), one)


def crackle(studio: Studio) -> Samples:
    centre = studio.pitch(1000, 4000)
    snaps_T = filtered(
        studio.drops(studio.pitch(8, 60)), studio.sample_rate, lambda hz_F: resonances(hz_F, [centre, 2.3 * centre], 1)
    )
    return with_power(snaps_T) + np.float32(studio.between(0.1, 0.6)) * studio.noise(60, 500, slope_db=-3)


def water_tap(studio: Studio) -> Samples:
    bed_T = studio.noise(studio.pitch(500, 1800), studio.pitch(4000, 12000))
    gurgle_T = studio.tone(studio.wander(14, 400, 1600)) * studio.wander(9, 0, 0.7)
    return bed_T * studio.wander(3, 0.8, 1.0) + np.float32(studio.between(0.1, 0.8)) * gurgle_T


def background(studio: Studio) -> Samples:
    """Room tone, hiss or mains hum of unit power."""
    kind = studio.whole(0, 3)
    if kind == 0:
        return studio.noise(30, studio.pitch(400, 3000), slope_db=-4)
    if kind == 1:
        return studio.noise(100, 20000, slope_db=studio.between(-3, 1))
    if kind == 2:
        mains = float(studio.rng.choice([50, 60]))
        return with_power(studio.tone(mains, [1, 0.6, 0.5, 0.3, 0.2]) + studio.noise(80, 8000, slope_db=-2))
    return studio.noise(studio.pitch(150, 600), studio.pitch(800, 3000))


def bleeps(studio: Studio) -> Samples:
    """Random tones of random lengths, which are no class at all."""

    def one(_: int) -> Samples:
        bit = studio.part(studio.between(0.03, 0.5))
        hz = studio.pitch(150, 5000)
        end = studio.pitch(150, 5000) if studio.rng.random() < 0.4 else hz
        return bit.tone(bit.glide([hz, end]), [1, studio.between(0, 0.6), studio.between(0, 0.6)]) * bit.swell(0.1, 0.1)

    return studio.repeat(studio.start_times(studio.between(0.15, 0.6), jitter=0.9), one)


def noise_alone(studio: Studio) -> Samples:
    """Noise with a slow change of level: what a microphone in an empty place records."""
    return background(studio) * studio.wander(0.5, 0.5, 1.0) + np.float32(studio.between(0, 0.5)) * background(studio)


def hush(studio: Studio) -> Samples:
    """Digital silence, or noise far below what can be heard (peak under -110 dBFS)."""
    if studio.rng.random() < 0.6:
        return studio.silence()
    return np.clip(1e-6 * studio.noise(), -3e-6, 3e-6).astype(np.float32)
