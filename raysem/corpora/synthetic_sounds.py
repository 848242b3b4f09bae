"""Sound events by arithmetic: 35 classes under their AudioSet names, each drawn with parameters of its own.

They are sketches, not physics: enough of a class's pitch, rhythm and timbre that a model can learn it, with ranges that
overlap those of its neighbours (siren and train horn; rain, waves and tap; knock, footsteps and hooves), so that a
model of few clips mixes them up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raysem.corpora.synthetic_signals import Samples, Studio, filtered, resonances, with_power

SoundMaker = Callable[[Studio], Samples]


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


def rain(studio: Studio) -> Samples:
    bed_T = studio.noise(studio.pitch(300, 1500), studio.pitch(5000, 14000), slope_db=studio.between(-3, 1))
    centre, quality = studio.pitch(1500, 6000), studio.between(0.7, 3)
    drops_T = filtered(
        studio.drops(studio.pitch(20, 400)), studio.sample_rate, lambda hz_F: resonances(hz_F, [centre], quality)
    )
    return bed_T + np.float32(studio.between(0.3, 1.5)) * with_power(drops_T)


def bark(studio: Studio) -> Samples:
    pitch, length = studio.pitch(220, 900), studio.between(0.08, 0.26)

    def one(_: int) -> Samples:
        bit = studio.part(length * studio.between(0.8, 1.2))
        hz_T = bit.glide([pitch * 0.8, pitch * studio.between(1.1, 1.5), pitch * 0.6])
        voice_T = bit.tone(hz_T, [0.6, 1, 0.8, 0.6, 0.4, 0.25, 0.15])
        return (voice_T + 0.5 * bit.noise(pitch, 5 * pitch)) * bit.swell(0.08, 0.6)

    starts: list[float] = []
    for at in studio.start_times(studio.between(0.7, 1.8), jitter=0.4):
        starts += [at + k * length * 1.6 for k in range(studio.whole(1, 3))]
    return studio.repeat(starts, one)


def engine(studio: Studio) -> Samples:
    fire = studio.pitch(24, 95)
    knots = [fire * studio.between(0.8, 1.3) for _ in range(studio.whole(2, 5))]
    partials = [studio.between(0.3, 1) / (1 + 0.15 * k) for k in range(14)]
    hum_T = with_power(studio.tone(studio.glide(knots), partials))
    rough_T = studio.noise(60, studio.pitch(600, 2500), slope_db=-4) * (1 + 0.6 * studio.tone(fire))
    return (hum_T + np.float32(studio.between(0.3, 1)) * rough_T).astype(np.float32, copy=False)


def church_bell(studio: Studio) -> Samples:
    strike = studio.pitch(180, 750)
    modes = [strike * ratio for ratio in (0.5, 1, 1.19, 1.5, 2, 2.52, 2.66, 3.01, 4.17)]
    ring = studio.part(min(3.5, studio.duration_seconds))
    constant = studio.between(0.6, 2.0)
    period = studio.between(0.9, 2.6)
    blow_T = ring.strike(modes, constant)
    return studio.repeat(studio.start_times(period, jitter=0.03, first=0.1), lambda _: blow_T)


def tick_tock(studio: Studio) -> Samples:
    bit = studio.part(0.05)
    high, fall = studio.pitch(1500, 5000), studio.between(0.75, 1.0)
    clicks = [bit.strike([hz, 1.7 * hz, 2.9 * hz], studio.between(0.003, 0.01)) for hz in (high, high * fall)]
    period = studio.between(0.2, 1.05)
    return studio.repeat(studio.start_times(period, jitter=0.005, first=0.1), lambda number: clicks[number % 2])


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


def bird(studio: Studio) -> Samples:
    base = studio.pitch(2000, 4500)
    shape = [base * studio.between(0.8, 1.5) for _ in range(studio.whole(2, 5))]
    length = studio.between(0.05, 0.3)

    def one(_: int) -> Samples:
        bit = studio.part(length)
        return bit.tone(bit.glide(shape), [1, 0.15]) * bit.swell(0.2, 0.3)

    starts: list[float] = []
    for at in studio.start_times(studio.between(0.5, 1.6), jitter=0.4):
        starts += [at + k * length * 1.3 for k in range(studio.whole(1, 6))]
    return studio.repeat(starts, one)


def helicopter(studio: Studio) -> Samples:
    blades = studio.between(8, 24)
    phase_T = studio.times * np.float32(blades)
    chop_T = np.exp(-(phase_T - np.floor(phase_T)) * np.float32(studio.between(2.5, 7)))
    body_T = studio.noise(50, studio.pitch(400, 1800), slope_db=-3)
    whine_T = studio.tone(studio.pitch(300, 900), [1, 0.4])
    return body_T * chop_T + np.float32(studio.between(0.02, 0.15)) * whine_T


def knock(studio: Studio) -> Samples:
    modes = [studio.pitch(110, 420) * ratio for ratio in (1, 1.6, 2.4, 3.7, 5.2)]
    bit = studio.part(0.16)
    tap_T = bit.strike(modes, studio.between(0.012, 0.035)) + 0.3 * bit.noise(300, 3000) * bit.decay(0.006)
    gap = studio.between(0.13, 0.35)
    starts: list[float] = []
    for at in studio.start_times(studio.between(1.2, 2.4), jitter=0.2):
        starts += [at + k * gap for k in range(studio.whole(2, 5))]
    return studio.repeat(starts, lambda _: tap_T * np.float32(studio.between(0.7, 1)))


def footsteps(studio: Studio) -> Samples:
    low, high = studio.pitch(80, 300), studio.pitch(900, 5000)
    length = studio.between(0.06, 0.2)

    def one(_: int) -> Samples:
        bit = studio.part(length)
        scuff_T = bit.noise(low * studio.between(0.8, 1.2), high) * bit.swell(0.1, 0.8)
        return scuff_T * np.float32(studio.between(0.5, 1)) + bit.strike([low, 1.9 * low], 0.02)

    return studio.repeat(studio.start_times(studio.between(0.28, 0.75), jitter=0.08), one)


def alarm_clock(studio: Studio) -> Samples:
    hz, beep, count = studio.pitch(700, 3200), studio.between(0.05, 0.16), studio.whole(2, 4)
    bit = studio.part(beep)
    one_T = bit.tone(hz, [1, 0, studio.between(0, 0.5), 0, 0.2]) * bit.swell(0.05, 0.05)
    starts: list[float] = []
    for at in studio.start_times(count * beep * 2 + studio.between(0.2, 0.7), jitter=0):
        starts += [at + k * beep * 1.8 for k in range(count)]
    return studio.repeat(starts, lambda _: one_T)


def vacuum_cleaner(studio: Studio) -> Samples:
    motor = studio.pitch(110, 420)
    hum_T = studio.tone(studio.wander(1, motor * 0.98, motor * 1.02), [1, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.2])
    air_T = studio.noise(studio.pitch(150, 500), studio.pitch(3000, 10000), slope_db=studio.between(-3, 0))
    return with_power(hum_T) * np.float32(studio.between(0.2, 0.9)) + air_T


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


def thunder(studio: Studio) -> Samples:
    def one(_: int) -> Samples:
        bit = studio.part(studio.between(1.5, 4))
        roll_T = bit.noise(25, studio.pitch(120, 600), slope_db=-4) * bit.wander(8, 0.2, 1)
        crack_T = bit.noise(200, 6000) * bit.decay(studio.between(0.03, 0.2))
        return roll_T * bit.decay(bit.duration_seconds / 3) + np.float32(studio.between(0, 0.7)) * crack_T

    return studio.repeat(studio.start_times(studio.between(2, 4), jitter=0.3), one)


def car_horn(studio: Studio) -> Samples:
    root = studio.pitch(330, 560)

    def one(_: int) -> Samples:
        bit = studio.part(studio.between(0.12, 1.0))
        partials = [1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
        return (bit.tone(root, partials) + bit.tone(root * 1.26, partials)) * bit.swell(0.03, 0.05)

    return studio.repeat(studio.start_times(studio.between(0.5, 1.6), jitter=0.5), one)


def telephone_bell(studio: Studio) -> Samples:
    gong, rate = studio.pitch(900, 2200), studio.between(16, 28)
    bit = studio.part(0.3)
    hits = [bit.strike([hz, 2.7 * hz, 5.1 * hz], 0.08) for hz in (gong, gong * studio.between(1.1, 1.3))]
    starts: list[float] = []
    for at in studio.start_times(studio.between(1.6, 3), jitter=0):
        starts += [at + k / rate for k in range(int(rate * studio.between(0.7, 1.2)))]
    return studio.repeat(starts, lambda number: hits[number % 2])


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


def crackle(studio: Studio) -> Samples:
    centre = studio.pitch(1000, 4000)
    snaps_T = filtered(
        studio.drops(studio.pitch(8, 60)), studio.sample_rate, lambda hz_F: resonances(hz_F, [centre, 2.3 * centre], 1)
    )
    return with_power(snaps_T) + np.float32(studio.between(0.1, 0.6)) * studio.noise(60, 500, slope_db=-3)


def clip_clop(studio: Studio) -> Samples:
    hz = studio.pitch(500, 1300)
    bit = studio.part(0.1)
    hooves = [bit.strike([h, 1.6 * h, 2.5 * h], 0.018) for h in (hz, hz * studio.between(0.7, 0.9))]
    return studio.repeat(studio.start_times(studio.between(0.16, 0.4), jitter=0.12), lambda number: hooves[number % 2])


def snoring(studio: Studio) -> Samples:
    flutter = studio.between(28, 75)

    def one(number: int) -> Samples:
        bit = studio.part(studio.between(0.7, 1.3))
        if number % 2:
            return 0.35 * bit.noise(400, 3000) * bit.swell(0.3, 0.5)
        breath_T = bit.noise(90, 900) * (0.4 + np.abs(bit.tone(flutter))) * bit.swell(0.4, 0.3)
        return breath_T.astype(np.float32, copy=False)

    return studio.repeat(studio.start_times(studio.between(1.1, 1.8), jitter=0.1), one)


def applause(studio: Studio) -> Samples:
    centre = studio.pitch(900, 2200)
    claps_T = filtered(
        studio.drops(studio.pitch(60, 900)),
        studio.sample_rate,
        lambda hz_F: resonances(hz_F, [centre, 2 * centre], 0.8),
    )
    return with_power(claps_T) * studio.wander(0.7, 0.6, 1.0) + 0.15 * studio.noise(300, 4000)


def lawn_mower(studio: Studio) -> Samples:
    fire = studio.pitch(40, 110)
    hum_T = studio.tone(studio.wander(2, fire * 0.96, fire * 1.04), [1, 0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4])
    blade_T = studio.noise(300, studio.pitch(2500, 6000)) * (1 + 0.4 * studio.tone(fire / 2))
    return (with_power(hum_T) + np.float32(studio.between(0.5, 1.2)) * blade_T).astype(np.float32, copy=False)


def croak(studio: Studio) -> Samples:
    pulse, formant = studio.between(25, 70), studio.pitch(350, 1200)

    def one(_: int) -> Samples:
        bit = studio.part(studio.between(0.2, 0.6))
        phase_T = bit.times * np.float32(pulse)
        return bit.tone(formant, [1, 0.5, 0.3]) * np.exp(-4 * (phase_T - np.floor(phase_T))) * bit.swell(0.2, 0.2)

    return studio.repeat(studio.start_times(studio.between(0.5, 1.4), jitter=0.2), one)


def glockenspiel(studio: Studio) -> Samples:
    root = studio.pitch(700, 1500)
    bit = studio.part(1.2)
    scale = [root * 2 ** (step / 12) for step in (0, 2, 4, 7, 9, 12)]

    def one(_: int) -> Samples:
        hz = scale[studio.whole(0, 5)]
        return bit.strike([hz, 2.76 * hz, 5.4 * hz], studio.between(0.2, 0.4))

    return studio.repeat(studio.start_times(studio.between(0.2, 0.5), jitter=0.02), one)


def water_tap(studio: Studio) -> Samples:
    bed_T = studio.noise(studio.pitch(500, 1800), studio.pitch(4000, 12000))
    gurgle_T = studio.tone(studio.wander(14, 400, 1600)) * studio.wander(9, 0, 0.7)
    return bed_T * studio.wander(3, 0.8, 1.0) + np.float32(studio.between(0.1, 0.8)) * gurgle_T


def heartbeat(studio: Studio) -> Samples:
    hz, beat = studio.pitch(38, 75), studio.between(0.55, 1.0)
    bit = studio.part(0.18)
    pair = [bit.strike([h, 2 * h], 0.04) for h in (hz, 1.25 * hz)]
    starts = [at + shift for at in studio.start_times(beat, jitter=0.03) for shift in (0, 0.32 * beat)]
    return studio.repeat(starts, lambda number: pair[number % 2])


def jackhammer(studio: Studio) -> Samples:
    bit = studio.part(0.07)
    hit_T = bit.noise(200, 6000) * bit.decay(0.012) + bit.strike([studio.pitch(300, 900)], 0.01)
    return studio.repeat(studio.start_times(1 / studio.between(14, 30), jitter=0.05), lambda _: hit_T)


def sonar(studio: Studio) -> Samples:
    ping = studio.part(1.8)
    ping_T = ping.tone(studio.pitch(700, 2400)) * ping.decay(studio.between(0.25, 0.6))
    return studio.repeat(studio.start_times(studio.between(1.4, 3), jitter=0), lambda _: ping_T)


def mosquito(studio: Studio) -> Samples:
    hz = studio.pitch(380, 750)
    return studio.tone(studio.wander(5, hz * 0.93, hz * 1.07), [1, 0.7, 0.5, 0.3, 0.2]) * studio.wander(2, 0.1, 1)


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


DOMAIN_SOUNDS: dict[str, SoundMaker] = {
    "Siren": siren,
    "Rain": rain,
    "Bark": bark,
    "Engine": engine,
    "Church bell": church_bell,
    "Tick-tock": tick_tock,
    "Wind": wind,
    "Waves, surf": waves,
    "Chirp, tweet": bird,
    "Helicopter": helicopter,
    "Knock": knock,
    "Walk, footsteps": footsteps,
    "Alarm clock": alarm_clock,
    "Vacuum cleaner": vacuum_cleaner,
    "Train horn": train_horn,
}
"""The downstream domain: what the labelled test set asks for."""

CAPTIONED_SOUNDS: dict[str, SoundMaker] = {
    "Meow": meow,
    "Cricket": cricket,
    "Thunder": thunder,
    "Vehicle horn, car horn, honking": car_horn,
    "Telephone bell ringing": telephone_bell,
    "Computer keyboard": keyboard_typing,
    "Crackle": crackle,
    "Clip-clop": clip_clop,
    "Snoring": snoring,
    "Applause": applause,
    "Lawn mower": lawn_mower,
    "Croak": croak,
    "Glockenspiel": glockenspiel,
    "Water tap, faucet": water_tap,
}
"""Outside the downstream domain, but captioned: the teacher learns them too."""

WILD_SOUNDS: dict[str, SoundMaker] = {
    "Heart sounds, heartbeat": heartbeat,
    "Jackhammer": jackhammer,
    "Sonar": sonar,
    "Mosquito": mosquito,
    "Organ": organ,
    "Whistle": whistle,
}
"""Only in the wild pool: the teacher has never heard them."""

LOWEST_SAMPLE_RATE: dict[str, int] = {"Chirp, tweet": 16_000, "Cricket": 16_000, "Whistle": 16_000}
"""Below these rates nothing of the sound would be left."""

SOUNDS: dict[str, SoundMaker] = DOMAIN_SOUNDS | CAPTIONED_SOUNDS | WILD_SOUNDS


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
