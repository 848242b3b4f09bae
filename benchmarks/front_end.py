"""Decoding, resampling and log-mel against the bare calls of the libraries, format by format.

    python -m benchmarks.front_end [--clips 12] [--seconds 10] [--quick] [--json FILE]

Ours is `load_clip` (decode, checks, mono, resample) and `LogMel`. The bare side is soundfile.read (PyAV for Opus),
the mean of the channels, torchaudio's Resample with a kernel made once, MelSpectrogram with the same numbers, and
10 log10. Both take the first 90 % of each clip (codecs add their own delay) as one batch for the log-mel, on one
thread.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial

import av
import numpy as np
import soundfile
import torch
import torchaudio

from benchmarks.material import files
from benchmarks.rows import Row, finish, in_turns, parser_of, seconds_of
from raysem.audio.load import AudioSettings, load_clip
from raysem.audio.logmel import AMIN, LogMel, LogMelSettings

# Shapes: C channels, T samples, B clips, N frames, F mel bins.

FILE_RATE = 48_000
FORMATS = {"wav16": "wav", "flac": "flac", "vorbis": "ogg vorbis", "opus": "opus", "mp3": "mp3"}
MAX_DIFFERENCE_DB = 0.1
"""Mean difference of the two log-mels above which the two sides did not do the same work."""


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints one line per format, and returns the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--clips", type=int, help="clips of each format (default: 12)")
    parser.add_argument("--seconds", type=float, help="length of a clip (default: 10)")
    parser.add_argument("--repeats", type=int, help="turns of both sides (default: 5)")
    options = parser.parse_args(argv)
    clips, seconds, repeats = (2, 1.0, 1) if options.quick else (12, 10.0, 5)
    options.clips, options.seconds = options.clips or clips, options.seconds or seconds
    options.repeats = options.repeats or repeats
    return finish(measure(options), options)


def measure(options: argparse.Namespace) -> list[Row]:
    """One row per format: clips per second of both sides, and ours over the bare one's."""
    threads = options.threads or 1
    torch.set_num_threads(threads)
    settings = LogMelSettings()
    num_samples = int(0.9 * options.seconds * settings.sample_rate)
    setting = (
        f"{options.clips} stereo clips of {options.seconds:g} s at {FILE_RATE} Hz to mono log-mels at "
        f"{settings.sample_rate} Hz, {threads} threads; ratio: ours over the bare calls, in clips/s"
    )
    rows = []
    for format, name in FORMATS.items():
        contents = files(options.clips, format=format, seconds=options.seconds, sample_rate=FILE_RATE, channels=2)
        sides = {"ours": ours(settings, num_samples), "bare": bare(settings, num_samples, with_pyav=format == "opus")}
        found = {side: front_end(contents) for side, front_end in sides.items()}  # the first call makes the kernels
        difference_db = float((found["ours"] - found["bare"]).abs().mean())
        if not difference_db < MAX_DIFFERENCE_DB:
            raise RuntimeError(f"{name}: the log-mels differ by {difference_db:.3g} dB in the mean; no fair comparison")
        taken = in_turns(
            {side: partial(seconds_of, partial(front_end, contents)) for side, front_end in sides.items()},
            options.repeats,
        )
        rows.append(
            {
                "benchmark": "front_end",
                "setting": setting,
                "name": name,
                "ratio": taken["bare"] / taken["ours"],
                "clips_per_second": options.clips / taken["ours"],
                "bare_clips_per_second": options.clips / taken["bare"],
                "mean_difference_db": difference_db,
            }
        )
    return rows


FrontEnd = Callable[[list[bytes]], torch.Tensor]


def ours(settings: LogMelSettings, num_samples: int) -> FrontEnd:
    """Files to logmel_BNF by raysem."""
    audio, log_mel = AudioSettings(sample_rate=settings.sample_rate), LogMel(settings)

    def run(contents: list[bytes]) -> torch.Tensor:
        clips = [load_clip(content, None, settings=audio)[:num_samples] for content in contents]
        with torch.inference_mode():
            return log_mel(torch.from_numpy(np.stack(clips)))

    return run


def bare(settings: LogMelSettings, num_samples: int, *, with_pyav: bool) -> FrontEnd:
    """Files to logmel_BNF by soundfile or PyAV, and torchaudio."""
    read = read_with_pyav if with_pyav else read_with_soundfile
    resample = torchaudio.transforms.Resample(FILE_RATE, settings.sample_rate)
    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=settings.sample_rate,
        n_fft=settings.window_samples,
        hop_length=settings.hop_samples,
        f_min=settings.min_hz,
        f_max=settings.max_hz,
        n_mels=settings.num_mels,
        norm="slaney",
        mel_scale="slaney",
    )

    def run(contents: list[bytes]) -> torch.Tensor:
        with torch.inference_mode():
            clips = [resample(torch.from_numpy(read(content)))[:num_samples] for content in contents]
            return 10 * mel(torch.stack(clips)).clamp(min=AMIN).log10().transpose(1, 2)

    return run


def read_with_soundfile(content: bytes) -> np.ndarray:
    """Mono samples (T,) at the file's rate."""
    samples_TC, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return samples_TC.mean(axis=1, dtype=np.float32)


def read_with_pyav(content: bytes) -> np.ndarray:
    """Mono samples (T,) at the file's rate."""
    with av.open(io.BytesIO(content), "r") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(frames, axis=1).mean(axis=0, dtype=np.float32)


if __name__ == "__main__":
    main(sys.argv[1:])
