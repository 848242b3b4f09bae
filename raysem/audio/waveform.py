"""What a decoder gives, what part of a clip is asked for, and how much may be decoded at most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from raysem.config import Settings
from raysem.errors import ClipError

# Shapes: C channels, T samples.


@dataclass(frozen=True)
class Waveform:
    """Decoded audio. `sample_rate` is what the decoder returned, not what the format usually has."""

    samples_CT: np.ndarray
    sample_rate: int

    @property
    def duration_seconds(self) -> float:
        return self.samples_CT.shape[1] / self.sample_rate


class DecodeLimits(Settings):
    """What one clip may cost, so that a hostile file cannot eat the machine."""

    max_duration_seconds: float = Field(1800, gt=0)
    """Longest audio decoded at once; a segment of a longer file is fine."""
    max_decoded_mib: float = Field(512, gt=0)
    """Largest decoded size (all channels, float32)."""

    def max_samples(self, sample_rate: int, num_channels: int) -> int:
        """Samples per channel that both limits allow."""
        by_size = int(self.max_decoded_mib * 2**20) // (4 * num_channels)
        return min(by_size, math.ceil(self.max_duration_seconds * sample_rate))

    def check(self, num_samples: int, sample_rate: int, num_channels: int) -> None:
        """ClipError `too_long` when so many samples per channel are over a limit."""
        if num_samples > self.max_samples(sample_rate, num_channels):
            raise ClipError(
                "too_long",
                f"{num_samples / sample_rate:.1f} s with {num_channels} channels at {sample_rate} Hz "
                f"({num_samples * num_channels * 4 / 2**20:.0f} MiB decoded); the limits are "
                f"{self.max_duration_seconds:g} s and {self.max_decoded_mib:g} MiB",
            )


@dataclass(frozen=True)
class Segment:
    """The part of a clip that is asked for; the whole clip by default."""

    start_seconds: float = 0.0
    duration_seconds: float | None = None

    @classmethod
    def of(cls, start_seconds: float | None, duration_seconds: float | None) -> Segment:
        """A segment from the columns of a clips table; ClipError `empty` for one that can hold no sample."""
        start = 0.0 if start_seconds is None else float(start_seconds)
        duration = None if duration_seconds is None else float(duration_seconds)
        positive = duration is None or (math.isfinite(duration) and duration > 0)
        if not (math.isfinite(start) and start >= 0 and positive):
            raise ClipError("empty", f"segment start {start:g} s, duration {duration} s: no audio can lie there")
        return cls(start, duration)

    @property
    def is_whole(self) -> bool:
        return self.start_seconds == 0 and self.duration_seconds is None

    def first_sample(self, sample_rate: int) -> int:
        return round(self.start_seconds * sample_rate)

    def num_samples(self, sample_rate: int) -> int | None:
        """Samples asked for; None: to the end."""
        return None if self.duration_seconds is None else max(1, round(self.duration_seconds * sample_rate))

    def expected_samples(self, total_samples: int, sample_rate: int) -> int:
        """Samples of this segment in a clip of `total_samples`."""
        left = max(0, total_samples - self.first_sample(sample_rate))
        wanted = self.num_samples(sample_rate)
        return left if wanted is None else min(left, wanted)


@dataclass(frozen=True)
class Decoded:
    """One decoder's answer."""

    waveform: Waveform
    promised_samples: int | None
    """Samples of the asked segment that the container promises; None when it makes no promise."""
    frame_samples: int = 0
    """Samples of one frame of a lossy codec: promise and content of a sound file differ by some."""

    @property
    def num_samples(self) -> int:
        return self.waveform.samples_CT.shape[1]

    @property
    def is_short(self) -> bool:
        """Whether noticeably less was decoded than promised: over 50 ms and two codec frames (encoder padding)."""
        if not self.promised_samples or not self.num_samples:
            return bool(self.promised_samples)
        tolerance = 0.05 * self.waveform.sample_rate + 2 * self.frame_samples
        return self.promised_samples - self.num_samples > tolerance

    @property
    def is_below_promise(self) -> bool:
        """Whether any promised sample is absent, so that another decoder is worth a try."""
        return self.promised_samples is not None and self.num_samples < self.promised_samples
