"""The building blocks of the synthetic corpus: tones, shaped noise, strikes, rooms; float32, from one generator.

Everything is written at the clip's own sample rate, and partials above its reach are left out, so nothing aliases.
"""

# Shapes: T samples, F frequency bins of a whole-signal FFT.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

HIGHEST_SHARE_OF_RATE = 0.46
"""Partials above this share of the sample rate are left out."""


@dataclass(frozen=True)
class Studio:
    """A source of randomness with a length and a sample rate, on which sounds are drawn."""

    rng: np.random.Generator
    num_samples: int
    sample_rate: int

    @property
    def duration_seconds(self) -> float:
        return self.num_samples / self.sample_rate

    def part(self, duration_seconds: float) -> Studio:
        """The same source for a shorter event."""
        return replace(self, num_samples=max(16, int(duration_seconds * self.sample_rate)))

    def between(self, low: float, high: float) -> float:
        """A number drawn evenly from a range."""
        return float(self.rng.uniform(low, high))

    def pitch(self, low_hz: float, high_hz: float) -> float:
        """A frequency drawn evenly over octaves."""
        return float(np.exp(self.rng.uniform(np.log(low_hz), np.log(high_hz))))

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def silence(self) -> Samples:
        return np.zeros(self.num_samples, dtype=np.float32)

    @property
    def times(self) -> Samples:
        """The time of each sample in seconds (T,)."""
        return np.arange(self.num_samples, dtype=np.float32) / np.float32(self.sample_rate)

    def glide(self, knots: Sequence[float]) -> Samples:
        """A curve through evenly spaced knots."""
        at_T = np.linspace(0, len(knots) - 1, self.num_samples)
        return np.interp(at_T, np.arange(len(knots)), knots).astype(np.float32)

    def wander(self, knots_per_second: float, low: float, high: float) -> Samples:
        """A slow random curve between two values."""
        knots = max(3, int(knots_per_second * self.duration_seconds) + 2)
        return self.glide(self.rng.uniform(low, high, knots).tolist())

    def tone(self, hz: float | Samples, partials: Sequence[float] = (1.0,)) -> Samples:
        """A harmonic tone of constant or gliding frequency; `partials[k]` is the amplitude of harmonic k + 1."""
        step_T = np.broadcast_to(np.asarray(hz, dtype=np.float64) / self.sample_rate, self.num_samples)
        cycles_T = np.cumsum(step_T) + self.rng.uniform()
        highest = float(step_T.max(initial=0.0))
        sound_T = self.silence()
        for number, amplitude in enumerate(partials, start=1):
            if amplitude and number * highest < HIGHEST_SHARE_OF_RATE:
                turn_T = number * cycles_T
                sound_T += np.float32(amplitude) * np.sin((2 * np.pi * (turn_T - np.floor(turn_T))).astype(np.float32))
        return sound_T

    def decay(self, time_constant_seconds: float) -> Samples:
        """An exponential fall from 1."""
        return np.exp(self.times * np.float32(-1 / time_constant_seconds))

    def swell(self, attack_share: float = 0.1, release_share: float = 0.2) -> Samples:
        """Rise from 0 to 1 and back over the whole length."""
        at_T = np.linspace(0, 1, self.num_samples, dtype=np.float32)
        rise_T = np.minimum(1, at_T / np.float32(max(attack_share, 1e-4)))
        return rise_T * np.minimum(1, (1 - at_T) / np.float32(max(release_share, 1e-4)))

    def strike(self, modes_hz: Sequence[float], time_constant_seconds: float, *, damping: float = 0.5) -> Samples:
        """A struck body: its modes ring and decay, high ones sooner (time constant ~ frequency ** -damping)."""
        sound_T = self.silence()
        for number, hz in enumerate(modes_hz):
            if hz < HIGHEST_SHARE_OF_RATE * self.sample_rate:
                constant = time_constant_seconds * (hz / modes_hz[0]) ** -damping
                sound_T += self.tone(hz) * self.decay(constant) * np.float32(self.between(0.4, 1) / (1 + 0.4 * number))
        return sound_T

    def noise(self, low_hz: float = 20.0, high_hz: float = 24_000.0, *, slope_db: float = 0.0) -> Samples:
        """Noise of unit power between two soft edges, falling or rising by `slope_db` per octave."""
        num_fast = fast_length(self.num_samples)
        num_bins = num_fast // 2 + 1
        parts = self.rng.standard_normal((2, num_bins), dtype=np.float32)
        hz_F = np.linspace(0, self.sample_rate / 2, num_bins, dtype=np.float32)
        hz_F[0] = hz_F[1]
        gain_F = band(hz_F, low_hz, high_hz)
        if slope_db:
            gain_F *= (hz_F / 1000) ** np.float32(slope_db / 6.0206)
        spectrum_F = np.empty(num_bins, dtype=np.complex64)
        spectrum_F.real, spectrum_F.imag = parts[0] * gain_F, parts[1] * gain_F
        return with_power(np.fft.irfft(spectrum_F, num_fast)[: self.num_samples].astype(np.float32))

    def start_times(self, period_seconds: float, *, jitter: float = 0.05, first: float | None = None) -> list[float]:
        """Start times of something that repeats."""
        at = self.between(0, min(period_seconds, 0.5 * self.duration_seconds)) if first is None else first
        starts = []
        while at < self.duration_seconds:
            starts.append(at)
            at += period_seconds * (1 + jitter * float(self.rng.uniform(-1, 1)))
        return starts

    def repeat(self, starts: Sequence[float], event: Callable[[int], Samples]) -> Samples:
        """Events added at their start times; what passes the end is cut."""
        sound_T = self.silence()
        for number, at in enumerate(starts):
            begin = int(at * self.sample_rate)
            if begin < self.num_samples:
                event_T = event(number)[: self.num_samples - begin]
                sound_T[begin : begin + len(event_T)] += event_T
        return sound_T

    def drops(self, per_second: float) -> Samples:
        """Impulses at random times with random heights."""
        sound_T = self.silence()
        count = max(1, int(self.rng.poisson(per_second * self.duration_seconds)))
        heights = self.rng.standard_exponential(count, dtype=np.float32) * self.rng.choice([-1, 1], count)
        np.add.at(sound_T, self.rng.integers(0, self.num_samples, count), heights.astype(np.float32))
        return sound_T


def fast_length(num_samples: int) -> int:
    """The next even length whose FFT is fast."""
    best = 1 << max(1, num_samples - 1).bit_length()
    for odd in (3, 5, 9, 15, 25, 27, 45):
        times = max(2, 1 << max(0, -(-num_samples // odd) - 1).bit_length())
        best = min(best, odd * times)
    return best


def band(hz_F: Samples, low_hz: float, high_hz: float) -> Samples:
    """Gain with soft edges, 12 dB per octave."""
    return 1 / np.sqrt(1 + (low_hz / np.maximum(hz_F, 1e-3)) ** 4) / np.sqrt(1 + (hz_F / high_hz) ** 4)


def resonances(hz_F: Samples, centres_hz: Sequence[float], quality: float) -> Samples:
    """Gain with one peak of height 1 per centre."""
    gain_F = np.zeros_like(hz_F)
    for centre in centres_hz:
        gain_F += 1 / np.sqrt(1 + (quality * (hz_F / centre - centre / np.maximum(hz_F, 1e-3))) ** 2)
    return gain_F


def filtered(sound_T: Samples, sample_rate: int, gain: Callable[[Samples], Any]) -> Samples:
    """`sound_T` times a gain over frequency (zero phase, so clicks get a short rise as well)."""
    num_fast = fast_length(len(sound_T))
    hz_F = np.linspace(0, sample_rate / 2, num_fast // 2 + 1, dtype=np.float32)
    spectrum_F = np.fft.rfft(sound_T, num_fast) * gain(hz_F)
    return np.fft.irfft(spectrum_F, num_fast)[: len(sound_T)].astype(np.float32)


def with_power(sound_T: Samples, root_mean_square: float = 1.0) -> Samples:
    """Scaled to a root mean square; silence stays silence."""
    power = float(np.sqrt(np.mean(np.square(sound_T), dtype=np.float64)))
    return sound_T * np.float32(root_mean_square / power) if power > 0 else sound_T


def in_room(studio: Studio, sound_T: Samples, *, reverberation_seconds: float, wet: float, tilt_db: float) -> Samples:
    """With a decaying tail of noise as reverberation and a tilted frequency response (dB per octave about 1 kHz)."""
    tail = studio.part(min(2.0, 1.2 * reverberation_seconds))
    impulse_T = tail.rng.standard_normal(tail.num_samples, dtype=np.float32) * tail.decay(reverberation_seconds / 6.9)
    impulse_T = with_power(impulse_T, wet / np.sqrt(tail.num_samples))
    impulse_T[0] += 1
    num_fast = fast_length(len(sound_T) + len(impulse_T))
    hz_F = np.linspace(0, studio.sample_rate / 2, num_fast // 2 + 1, dtype=np.float32)
    spectrum_F = np.fft.rfft(sound_T, num_fast) * np.fft.rfft(impulse_T, num_fast)
    spectrum_F *= (np.maximum(hz_F, 60) / 1000) ** np.float32(tilt_db / 6.0206)
    return np.fft.irfft(spectrum_F, num_fast)[: len(sound_T)].astype(np.float32)
