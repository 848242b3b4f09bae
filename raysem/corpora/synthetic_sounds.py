"""Sound events by arithmetic: 35 classes under their AudioSet names, each drawn with parameters of its own.

They are sketches, not physics: enough of a class's pitch, rhythm and timbre that a model can learn it, with ranges that
overlap those of its neighbours (siren and train horn; rain, waves and tap; knock, footsteps and hooves), so that a
model of few clips mixes them up.
"""

from __future__ import annotations

from collections.abc import Callable

from raysem.corpora.synthetic_beings import (
    applause,
    bark,
    bird,
    clip_clop,
    cricket,
    croak,
    footsteps,
    heartbeat,
    keyboard_typing,
    knock,
    meow,
    mosquito,
    snoring,
)
from raysem.corpora.synthetic_machines import (
    alarm_clock,
    car_horn,
    church_bell,
    engine,
    glockenspiel,
    helicopter,
    jackhammer,
    lawn_mower,
    organ,
    siren,
    sonar,
    telephone_bell,
    tick_tock,
    train_horn,
    vacuum_cleaner,
    whistle,
)
from raysem.corpora.synthetic_signals import Samples, Studio
from raysem.corpora.synthetic_surroundings import crackle, rain, thunder, water_tap, waves, wind

SoundMaker = Callable[[Studio], Samples]

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
