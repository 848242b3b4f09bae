"""Captions of synthetic clips from varied templates: several wordings for each class, for one sound or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Wording:
    """How people write about a class: clauses with a verb, bare nouns, and where it is usually heard."""

    clauses: tuple[str, ...]
    nouns: tuple[str, ...]
    outdoors: bool = True


WORDINGS: dict[str, Wording] = {
    "Siren": Wording(
        ("a siren wails", "an ambulance siren blares", "a police siren rises and falls", "emergency sirens sound"),
        ("a wailing siren", "an emergency vehicle siren", "a fire truck siren"),
    ),
    "Rain": Wording(
        ("rain falls", "rain patters down steadily", "it is raining heavily", "raindrops fall on the ground"),
        ("falling rain", "a rain shower", "steady rain"),
    ),
    "Bark": Wording(
        ("a dog barks", "a dog is barking", "a small dog barks several times", "a hound barks again and again"),
        ("a barking dog", "a dog's bark", "dog barks"),
    ),
    "Engine": Wording(
        ("an engine runs", "a motor idles roughly", "an engine revs up and down", "a truck engine rumbles"),
        ("a running engine", "a rumbling motor", "an idling engine"),
    ),
    "Church bell": Wording(
        ("a church bell rings", "church bells toll", "a large bell tolls slowly", "bells ring from a church tower"),
        ("a church bell", "a tolling bell", "cathedral bells"),
    ),
    "Tick-tock": Wording(
        ("a clock ticks", "a wall clock goes tick-tock", "an old clock is ticking", "a clock ticks at a steady pace"),
        ("a ticking clock", "the tick-tock of a clock", "clock ticks"),
        outdoors=False,
    ),
    "Wind": Wording(
        ("wind blows", "the wind howls", "strong wind gusts", "a breeze blows and whistles"),
        ("blowing wind", "howling wind", "gusts of wind"),
    ),
    "Waves, surf": Wording(
        ("waves crash on the shore", "ocean waves roll in", "surf washes over the beach", "the sea surges and recedes"),
        ("ocean waves", "surf on a beach", "waves breaking on the shore"),
    ),
    "Chirp, tweet": Wording(
        ("a bird chirps", "birds are tweeting", "a small bird sings", "birds chirp in the trees"),
        ("a chirping bird", "bird song", "tweeting birds"),
    ),
    "Helicopter": Wording(
        ("a helicopter flies overhead", "a helicopter hovers", "helicopter blades chop the air", "rotor blades spin"),
        ("a helicopter", "helicopter rotors", "a hovering helicopter"),
    ),
    "Knock": Wording(
        (
            "someone knocks on a door",
            "a person knocks on wood",
            "there is a knock at the door",
            "knuckles rap on a door",
        ),
        ("a knock on the door", "knocking on wood", "someone knocking"),
        outdoors=False,
    ),
    "Walk, footsteps": Wording(
        ("someone walks", "footsteps approach", "a person walks across the floor", "shoes step on hard ground"),
        ("footsteps", "a person walking", "steady footsteps"),
        outdoors=False,
    ),
    "Alarm clock": Wording(
        (
            "an alarm clock beeps",
            "an alarm clock goes off",
            "a digital alarm beeps repeatedly",
            "a bedside alarm sounds",
        ),
        ("a beeping alarm clock", "an electronic alarm", "the beeps of an alarm clock"),
        outdoors=False,
    ),
    "Vacuum cleaner": Wording(
        ("a vacuum cleaner runs", "someone is vacuuming", "a hoover hums loudly", "a vacuum cleaner whirs"),
        ("a vacuum cleaner", "vacuuming", "a loud hoover"),
        outdoors=False,
    ),
    "Train horn": Wording(
        ("a train horn blows", "a train sounds its horn", "a locomotive blasts its horn", "a passing train honks"),
        ("a train horn", "a locomotive horn", "the horn of a train"),
    ),
    "Meow": Wording(
        ("a cat meows", "a cat is meowing", "a kitten mews", "a hungry cat cries"),
        ("a meowing cat", "a cat's meow", "kitten cries"),
        outdoors=False,
    ),
    "Cricket": Wording(
        ("crickets chirp", "a cricket is chirping", "crickets sing at night", "an insect trills"),
        ("chirping crickets", "night insects", "a cricket"),
    ),
    "Thunder": Wording(
        ("thunder rumbles", "thunder cracks and rolls", "a clap of thunder rolls by", "a thunderstorm rumbles"),
        ("rolling thunder", "a thunderstorm", "a clap of thunder"),
    ),
    "Vehicle horn, car horn, honking": Wording(
        ("a car honks", "a car horn blares", "a driver honks several times", "vehicles honk in traffic"),
        ("a car horn", "honking cars", "a honking vehicle"),
    ),
    "Telephone bell ringing": Wording(
        ("a telephone rings", "an old phone is ringing", "a telephone bell rings", "a rotary phone rings repeatedly"),
        ("a ringing telephone", "a telephone bell", "an old phone ringing"),
        outdoors=False,
    ),
    "Computer keyboard": Wording(
        (
            "someone types on a keyboard",
            "keys click on a keyboard",
            "a person is typing quickly",
            "fingers tap the keys",
        ),
        ("typing on a computer keyboard", "keyboard clicks", "fast typing"),
        outdoors=False,
    ),
    "Crackle": Wording(
        ("a fire crackles", "burning wood pops and crackles", "a campfire is crackling", "flames crackle"),
        ("a crackling fire", "a campfire", "burning wood"),
    ),
    "Clip-clop": Wording(
        ("a horse trots", "hooves clip-clop on the road", "a horse walks by", "horses gallop past"),
        ("horse hooves", "the clip-clop of a horse", "a trotting horse"),
    ),
    "Snoring": Wording(
        ("someone snores", "a man is snoring", "a person snores in their sleep", "a sleeper snores loudly"),
        ("snoring", "a snoring person", "loud snores"),
        outdoors=False,
    ),
    "Applause": Wording(
        ("an audience applauds", "people clap", "a crowd is clapping", "the audience claps for a while"),
        ("applause", "a clapping crowd", "an applauding audience"),
        outdoors=False,
    ),
    "Lawn mower": Wording(
        ("a lawn mower runs", "someone mows the lawn", "a mower cuts grass", "a lawn mower buzzes"),
        ("a lawn mower", "a mower cutting grass", "mowing"),
    ),
    "Croak": Wording(
        ("a frog croaks", "frogs are croaking", "a toad croaks over and over", "frogs croak in a pond"),
        ("a croaking frog", "frogs in a pond", "the croak of a toad"),
    ),
    "Glockenspiel": Wording(
        ("a glockenspiel plays a melody", "someone plays the glockenspiel", "small metal bars are struck in a tune"),
        ("a glockenspiel melody", "a glockenspiel", "bright mallet music"),
        outdoors=False,
    ),
    "Water tap, faucet": Wording(
        ("water runs from a tap", "a faucet is running", "water pours into a sink", "someone opens the tap"),
        ("running tap water", "a running faucet", "water flowing into a sink"),
        outdoors=False,
    ),
    "Heart sounds, heartbeat": Wording(
        ("a heart beats", "a heartbeat thumps slowly", "a heart is pounding"),
        ("a heartbeat", "a beating heart"),
        outdoors=False,
    ),
    "Jackhammer": Wording(
        ("a jackhammer pounds the street", "workers use a jackhammer", "a pneumatic drill breaks concrete"),
        ("a jackhammer", "a pneumatic drill"),
    ),
    "Sonar": Wording(
        ("a sonar pings", "a submarine sends sonar pings", "an echo sounder pings"),
        ("sonar pings", "a sonar ping"),
        outdoors=False,
    ),
    "Mosquito": Wording(
        ("a mosquito buzzes by", "a mosquito is buzzing near the ear", "a tiny insect whines"),
        ("a buzzing mosquito", "the whine of a mosquito"),
    ),
    "Organ": Wording(
        ("an organ plays chords", "someone plays the organ", "a church organ plays a hymn"),
        ("organ music", "a pipe organ"),
        outdoors=False,
    ),
    "Whistle": Wording(
        ("a referee blows a whistle", "a whistle is blown", "someone blows a sports whistle"),
        ("a referee's whistle", "a whistle blast"),
    ),
}
"""One entry for each class of `synthetic_sounds.SOUNDS`."""

_FAR_OUTDOORS = ("in the distance", "far away", "somewhere down the road")
_FAR_INDOORS = ("faintly", "quietly in the next room", "at a low volume")
_NEAR = ("nearby", "close to the microphone", "loudly")
_NOISY = ("with noise in the background", "over background noise", "in a noisy recording")


def caption(labels: Sequence[str], rng: np.random.Generator, *, faint: bool = False, noisy: bool = False) -> str:
    """One caption, lower case, for one class or for two (the louder first).

    Args:
        faint: the level is low, which some wordings mention.
        noisy: the background is strong, which some wordings mention.
    """
    if len(labels) == 1:
        text = _single(labels[0], rng, faint)
    elif len(labels) == 2:
        text = _pair(labels[0], labels[1], rng)
    else:
        raise ValueError(f"a caption is for one or two classes, got {list(labels)}")
    if noisy and rng.random() < 0.35:
        text += f" {draw(_NOISY, rng)}"
    return text


def _single(label: str, rng: np.random.Generator, faint: bool) -> str:
    wording = WORDINGS[label]
    form = rng.random()
    if form < 0.3:
        opening = draw(("the sound of", "a recording of", "this is the sound of", "we hear", ""), rng)
        return f"{opening} {draw(wording.nouns, rng)}".strip()
    text = draw(wording.clauses, rng)
    if form < 0.6:
        return text
    if faint:
        return f"{text} {draw(_FAR_OUTDOORS if wording.outdoors else _FAR_INDOORS, rng)}"
    return f"{text} {draw(_NEAR, rng)}" if form < 0.75 else text


def _pair(first: str, second: str, rng: np.random.Generator) -> str:
    one, other = WORDINGS[first], WORDINGS[second]
    form = rng.random()
    if form < 0.6:
        link = draw((" while ", " as ", " and ", ", and "), rng)
        return f"{draw(one.clauses, rng)}{link}{draw(other.clauses, rng)}"
    if form < 0.85:
        link = draw(("with {} in the background", "accompanied by {}", "together with {}", "over {}"), rng)
        return f"{draw(one.clauses, rng)} {link.format(draw(other.nouns, rng))}"
    return f"the sound of {draw(one.nouns, rng)} and {draw(other.nouns, rng)}"


def draw(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    """One of the choices, each as likely as the others."""
    return choices[int(rng.integers(len(choices)))]
