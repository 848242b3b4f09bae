"""Sounds of machines, signals, bells and instruments, by arithmetic."""

from __future__ import annotations

import numpy as np

from raysem.corpora.synthetic_signals import Samples, Studio, with_power


def engine(studio: Studio) -> Samples:
    fire = studio.pitch(24, 95)
    knots = [fire * studio.between(0.8, 1.3) for _ in range(studio.whole(2, 5))]
    partials = [studio.between(0.3, 1) / (1 + 0.15 * k) for k in range(14)]
    hum_T = with_power(studio.tone(studio.glide(knots), partials))
    rough_T = studio.noise(60, studio.pitch(600, 2500), slope_db=-4) * (1 + 0.6 * studio.tone(fire))
    return (hum_T + np.float32(studio.between(0.3, 1)) * rough_T).astype(np.float32, copy=False)


def lawn_mower(studio: Studio) -> Samples:
    fire = studio.pitch(40, 110)
    hum_T = studio.tone(studio.wander(2, fire * 0.96, fire * 1.04), [1, 0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4])
    blade_T = studio.noise(300, studio.pitch(2500, 6000)) * (1 + 0.4 * studio.tone(fire / 2))
    return (with_power(hum_T) + np.float32(studio.between(0.5, 1.2)) * blade_T).astype(np.float32, copy=False)


def helicopter(studio: Studio) -> Samples:
    blades = studio.between(8, 24)
    phase_T = studio.times * np.float32(blades)
    chop_T = np.exp(-(phase_T - np.floor(phase_T)) * np.float32(studio.between(2.5, 7)))
    body_T = studio.noise(50, studio.pitch(400, 1800), slope_db=-3)
    whine_T = studio.tone(studio.pitch(300, 900), [1, 0.4])
    return body_T * chop_T + np.float32(studio.between(0.02, 0.15)) * whine_T


def vacuum_cleaner(studio: Studio) -> Samples:
    motor = studio.pitch(110, 420)
    hum_T = studio.tone(studio.wander(1, motor * 0.98, motor * 1.02), [1, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.2])
    air_T = studio.noise(studio.pitch(150, 500), studio.pitch(3000, 10000), slope_db=studio.between(-3, 0))
    return with_power(hum_T) * np.float32(studio.between(0.2, 0.9)) + air_T


def jackhammer(studio: Studio) -> Samples:
    bit = studio.part(0.07)
    hit_T = bit.noise(200, 6000) * bit.decay(0.012) + bit.strike([studio.pitch(300, 900)], 0.01)
    return studio.repeat(studio.start_times(1 / studio.between(14, 30), jitter=0.05), lambda _: hit_T)


def sonar(studio: Studio) -> Samples:
    ping = studio.part(1.8)
    ping_T = ping.tone(studio.pitch(700, 2400)) * ping.decay(studio.between(0.25, 0.6))
    return studio.repeat(studio.start_times(studio.between(1.4, 3), jitter=0), lambda _: ping_T)


def siren(studio: Studio) -> Samples:
    low, high = studio.pitch(350, 700), studio.pitch(800, 1700)
    if studio.rng.random() < 0.35:  # two-tone
        per_tone = int(studio.between(0.35, 0.8) * studio.sample_rate)
        which_T = (np.arange(studio.num_samples) + studio.whole(0, per_tone)) // per_tone % 2
        hz_T = np.where(which_T == 0, low * 1.2, low * 1.2 * studio.between(1.2, 1.5)).astype(np.float32)
    else:
        turns = studio.between(0.25, 4.0) * studio.times + np.float32(studio.rng.uniform())
        hz_T = np.float32(low) + np.float32(high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)
    bright = studio.between(0.2, 0.8)
    return studio.tone(hz_T, [bright**k for k in range(6)])


def train_horn(studio: Studio) -> Samples:
    root = studio.pitch(200, 420)
    chord = [root * ratio for ratio in (1, 1.19, 1.5, 1.68)][: studio.whole(2, 4)]
    length = studio.between(0.7, 2.2)

    def one(_: int) -> Samples:
        bit = studio.part(length * studio.between(0.5, 1.1))
        sound_T = bit.silence()
        for hz in chord:
            sound_T += bit.tone(hz, [1, 0.8, 0.6, 0.5, 0.3, 0.2])
        return sound_T * bit.swell(0.06, 0.12)

    return studio.repeat(studio.start_times(length + studio.between(0.3, 1), jitter=0.2), one)


def car_horn(studio: Studio) -> Samples:
    root = studio.pitch(330, 560)

    def one(_: int) -> Samples:
        bit = studio.part(studio.between(0.12, 1.0))
        partials = [1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
        return (bit.tone(root, partials) + bit.tone(root * 1.26, partials)) * bit.swell(0.03, 0.05)

    return studio.repeat(studio.start_times(studio.between(0.5, 1.6), jitter=0.5), one)


def alarm_clock(studio: Studio) -> Samples:
    hz, beep, count = studio.pitch(700, 3200), studio.between(0.05, 0.16), studio.whole(2, 4)
    bit = studio.part(beep)
    one_T = bit.tone(hz, [1, 0, studio.between(0, 0.5), 0, 0.2]) * bit.swell(0.05, 0.05)
    starts = [
        at + k * beep * 1.8
        for at in studio.start_times(count * beep * 2 + studio.between(0.2, 0.7), jitter=0)
        for k in range(count)
    ]
    return studio.repeat(starts, lambda _: one_T)


def tick_tock(studio: Studio) -> Samples:
    bit = studio.part(0.05)
    high, fall = studio.pitch(1500, 5000), studio.between(0.75, 1.0)
    clicks = [bit.strike([hz, 1.7 * hz, 2.9 * hz], studio.between(0.003, 0.01)) for hz in (high, high * fall)]
    period = studio.between(0.2, 1.05)
    return studio.repeat(studio.start_times(period, jitter=0.005, first=0.1), lambda number: clicks[number % 2])


def telephone_bell(studio: Studio) -> Samples:
    gong, rate = studio.pitch(900, 2200), studio.between(16, 28)
    bit = studio.part(0.3)
    hits = [bit.strike([hz, 2.7 * hz, 5.1 * hz], 0.08) for hz in (gong, gong * studio.between(1.1, 1.3))]
    starts = [
        at + k / rate
        for at in studio.start_times(studio.between(1.6, 3), jitter=0)
        for k in range(int(rate * studio.between(0.7, 1.2)))
    ]
    return studio.repeat(starts, lambda number: hits[number % 2])


def church_bell(studio: Studio) -> Samples:
    strike = studio.pitch(180, 750)
    modes = [strike * ratio for ratio in (0.5, 1, 1.19, 1.5, 2, 2.52, 2.66, 3.01, 4.17)]
    ring = studio.part(min(3.5, studio.duration_seconds))
    constant = studio.between(0.6, 2.0)
    period = studio.between(0.9, 2.6)
    blow_T = ring.strike(modes, constant)
    return studio.repeat(studio.start_times(period, jitter=0.03, first=0.1), lambda _: blow_T)


def glockenspiel(studio: Studio) -> Samples:
    root = studio.pitch(700, 1500)
    bit = studio.part(1.2)
    scale = [root * 2 ** (step / 12) for step in (0, 2, 4, 7, 9, 12)]

    def one(_: int) -> Samples:
        hz = scale[studio.whole(0, 5)]
        return bit.strike([hz, 2.76 * hz, 5.4 * hz], studio.between(0.2, 0.4))

    return studio.repeat(studio.start_times(studio.between(0.2, 0.5), jitter=0.02), one)


def organ(studio: Studio) -> Samples:
    root = studio.pitch(110, 260)

    def one(_: int) -> Samples:
        bit = studio.part(1.3)
        shift = 2 ** (studio.whole(-5, 7) / 12)
        chord_T = bit.silence()
        for ratio in (1, 1.26, 1.498):
            chord_T += bit.tone(root * shift * ratio, [1, 0.7, 0.2, 0.5, 0.1, 0.2, 0, 0.3])
        return chord_T * bit.swell(0.04, 0.06)

    return studio.repeat(studio.start_times(1.2, jitter=0.02, first=0.0), one)


def whistle(studio: Studio) -> Samples:
    hz, pea = studio.pitch(2200, 4000), studio.between(20, 40)

    def one(_: int) -> Samples:
        bit = studio.part(studio.between(0.25, 1.2))
        flutter_T = (1 + 0.04 * np.sin(2 * np.pi * np.float32(pea) * bit.times)).astype(np.float32)
        return (bit.tone(flutter_T * np.float32(hz), [1, 0.2]) + 0.2 * bit.noise(hz * 0.8, hz * 1.2)) * bit.swell(
            0.05, 0.1
        )

    return studio.repeat(studio.start_times(studio.between(0.8, 1.8), jitter=0.3), one)
