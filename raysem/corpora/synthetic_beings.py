"""Sounds that animals and people make, by arithmetic; the corpus says how loud they are."""

from __future__ import annotations

import numpy as np

from raysem.corpora.synthetic_signals import Samples, Studio, filtered, resonances, with_power


def bark(studio: Studio) -> Samples:
    pitch, length = studio.pitch(220, 900), studio.between(0.08, 0.26)

    def one(_: int) -> Samples:
        bit = studio.part(length * studio.between(0.8, 1.2))
        hz_T = bit.glide([pitch * 0.8, pitch * studio.between(1.1, 1.5), pitch * 0.6])
        voice_T = bit.tone(hz_T, [0.6, 1, 0.8, 0.6, 0.4, 0.25, 0.15])
        return (voice_T + 0.5 * bit.noise(pitch, 5 * pitch)) * bit.swell(0.08, 0.6)

    starts = [
        at + k * length * 1.6
        for at in studio.start_times(studio.between(0.7, 1.8), jitter=0.4)
        for k in range(studio.whole(1, 3))
    ]
    return studio.repeat(starts, one)


def bird(studio: Studio) -> Samples:
    base = studio.pitch(2000, 4500)
    shape = [base * studio.between(0.8, 1.5) for _ in range(studio.whole(2, 5))]
    length = studio.between(0.05, 0.3)

    def one(_: int) -> Samples:
        bit = studio.part(length)
        return bit.tone(bit.glide(shape), [1, 0.15]) * bit.swell(0.2, 0.3)

    starts = [
        at + k * length * 1.3
        for at in studio.start_times(studio.between(0.5, 1.6), jitter=0.4)
        for k in range(studio.whole(1, 6))
    ]
    return studio.repeat(starts, one)


def meow(studio: Studio) -> Samples:
    pitch = studio.pitch(380, 900)

    def one(_: int) -> Samples:
        bit = studio.part(studio.between(0.4, 1.0))
        hz_T = bit.glide([pitch * 0.85, pitch * 1.25, pitch * 1.1, pitch * 0.7])
        return bit.tone(hz_T, [0.7, 1, 0.8, 0.5, 0.4, 0.2]) * bit.swell(0.25, 0.4)

    return studio.repeat(studio.start_times(studio.between(1.0, 2.2), jitter=0.3), one)


def cricket(studio: Studio) -> Samples:
    hz, pulse = studio.pitch(2600, 5200), studio.between(18, 45)
    trill_T = 0.5 - 0.5 * np.cos(2 * np.pi * np.float32(pulse) * studio.times)
    phase_T = studio.times * np.float32(studio.between(0.8, 3))
    gate_T = (phase_T - np.floor(phase_T) < studio.between(0.4, 1.0)).astype(np.float32)
    return studio.tone(studio.wander(2, hz * 0.99, hz * 1.01), [1, 0.1]) * trill_T.astype(np.float32) * gate_T


def croak(studio: Studio) -> Samples:
    pulse, formant = studio.between(25, 70), studio.pitch(350, 1200)

    def one(_: int) -> Samples:
        bit = studio.part(studio.between(0.2, 0.6))
        phase_T = bit.times * np.float32(pulse)
        return bit.tone(formant, [1, 0.5, 0.3]) * np.exp(-4 * (phase_T - np.floor(phase_T))) * bit.swell(0.2, 0.2)

    return studio.repeat(studio.start_times(studio.between(0.5, 1.4), jitter=0.2), one)


def mosquito(studio: Studio) -> Samples:
    hz = studio.pitch(380, 750)
    return studio.tone(studio.wander(5, hz * 0.93, hz * 1.07), [1, 0.7, 0.5, 0.3, 0.2]) * studio.wander(2, 0.1, 1)


def clip_clop(studio: Studio) -> Samples:
    hz = studio.pitch(500, 1300)
    bit = studio.part(0.1)
    hooves = [bit.strike([h, 1.6 * h, 2.5 * h], 0.018) for h in (hz, hz * studio.between(0.7, 0.9))]
    return studio.repeat(studio.start_times(studio.between(0.16, 0.4), jitter=0.12), lambda number: hooves[number % 2])


def footsteps(studio: Studio) -> Samples:
    low, high = studio.pitch(80, 300), studio.pitch(900, 5000)
    length = studio.between(0.06, 0.2)

    def one(_: int) -> Samples:
        bit = studio.part(length)
        scuff_T = bit.noise(low * studio.between(0.8, 1.2), high) * bit.swell(0.1, 0.8)
        return scuff_T * np.float32(studio.between(0.5, 1)) + bit.strike([low, 1.9 * low], 0.02)

    return studio.repeat(studio.start_times(studio.between(0.28, 0.75), jitter=0.08), one)


def knock(studio: Studio) -> Samples:
    modes = [studio.pitch(110, 420) * ratio for ratio in (1, 1.6, 2.4, 3.7, 5.2)]
    bit = studio.part(0.16)
    tap_T = bit.strike(modes, studio.between(0.012, 0.035)) + 0.3 * bit.noise(300, 3000) * bit.decay(0.006)
    gap = studio.between(0.13, 0.35)
    starts = [
        at + k * gap
        for at in studio.start_times(studio.between(1.2, 2.4), jitter=0.2)
        for k in range(studio.whole(2, 5))
    ]
    return studio.repeat(starts, lambda _: tap_T * np.float32(studio.between(0.7, 1)))


def keyboard_typing(studio: Studio) -> Samples:
    body = studio.pitch(1200, 3500)

    def one(_: int) -> Samples:
        bit = studio.part(0.04)
        return (
            bit.noise(body * studio.between(0.6, 1.4), 9000)
            * bit.decay(studio.between(0.003, 0.01))
            * np.float32(studio.between(0.3, 1))
        )

    return studio.repeat(studio.start_times(studio.between(0.09, 0.22), jitter=0.8), one)


def applause(studio: Studio) -> Samples:
    centre = studio.pitch(900, 2200)
    claps_T = filtered(
        studio.drops(studio.pitch(60, 900)),
        studio.sample_rate,
        lambda hz_F: resonances(hz_F, [centre, 2 * centre], 0.8),
    )
    return with_power(claps_T) * studio.wander(0.7, 0.6, 1.0) + 0.15 * studio.noise(300, 4000)


def snoring(studio: Studio) -> Samples:
    flutter = studio.between(28, 75)

    def one(number: int) -> Samples:
        bit = studio.part(studio.between(0.7, 1.3))
        if number % 2:
            return 0.35 * bit.noise(400, 3000) * bit.swell(0.3, 0.5)
        breath_T = bit.noise(90, 900) * (0.4 + np.abs(bit.tone(flutter))) * bit.swell(0.4, 0.3)
        return breath_T.astype(np.float32, copy=False)

    return studio.repeat(studio.start_times(studio.between(1.1, 1.8), jitter=0.1), one)


def heartbeat(studio: Studio) -> Samples:
    hz, beat = studio.pitch(38, 75), studio.between(0.55, 1.0)
    bit = studio.part(0.18)
    pair = [bit.strike([h, 2 * h], 0.04) for h in (hz, 1.25 * hz)]
    starts = [at + shift for at in studio.start_times(beat, jitter=0.03) for shift in (0, 0.32 * beat)]
    return studio.repeat(starts, lambda number: pair[number % 2])
