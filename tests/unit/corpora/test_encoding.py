from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile

from raysem.corpora.encoding import FORMATS, encode
from raysem.errors import ConfigError


def chord(sample_rate: int, channels: int) -> np.ndarray:
    times = np.arange(sample_rate) / sample_rate
    return np.stack([0.3 * np.sin(2 * np.pi * (300 + 200 * k) * times) for k in range(channels)], 1).astype(np.float32)


def decoded(content: bytes, format: str) -> tuple[np.ndarray, int]:
    if format != "m4a":
        return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T, frames[0].sample_rate


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", [8000, 48_000])
def test_every_format_keeps_rate_channels_and_pitch(format: str, channels: int, sample_rate: int):
    samples_TC = chord(sample_rate, channels)
    back_TC, rate = decoded(encode(samples_TC, sample_rate, format=format), format)
    assert rate == sample_rate
    assert back_TC.shape[1] == channels
    assert abs(len(back_TC) - len(samples_TC)) <= 2048
    for channel in range(channels):
        spectrum = np.abs(np.fft.rfft(back_TC[:sample_rate, channel], sample_rate))
        assert abs(int(spectrum.argmax()) - (300 + 200 * channel)) <= 3


@pytest.mark.parametrize(("format", "step"), [("wav16", 2**-15), ("wav24", 2**-23), ("wav_float", 0), ("flac", 2**-15)])
def test_lossless_formats_give_the_samples_back(format: str, step: float):
    samples_TC = chord(16_000, 2)
    back_TC, _ = decoded(encode(samples_TC, 16_000, format=format), format)
    np.testing.assert_allclose(back_TC, samples_TC, atol=1.5 * step, rtol=0)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_samples_give_the_same_bytes(format: str):
    samples_TC = chord(16_000, 1)
    assert encode(samples_TC, 16_000, format=format) == encode(samples_TC, 16_000, format=format)


def test_a_vorbis_file_with_a_new_serial_number_passes_the_checksums_of_a_strict_reader():
    samples_TC = 0.3 * np.random.default_rng(0).standard_normal((96_000, 2)).astype(np.float32)
    back_TC, _ = decoded(encode(samples_TC, 16_000, format="vorbis"), "vorbis")
    assert len(back_TC) == len(samples_TC)  # libogg drops pages whose checksum is wrong


def test_unknown_formats_and_rates_are_named():
    samples_TC = np.zeros((100, 1), dtype=np.float32)
    with pytest.raises(ConfigError, match="'aiff'; there are"):
        encode(samples_TC, 8000, format="aiff")
    with pytest.raises(ConfigError, match="opus: sample rate 44100"):
        encode(samples_TC, 44_100, format="opus")
    with pytest.raises(ValueError, match=r"\(samples, channels\)"):
        encode(samples_TC[:, 0], 8000, format="wav16")
