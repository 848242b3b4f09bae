"""Our log-mel against librosa, against the convolution of PANNs' torchlibrosa, and against a plain numpy loop."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from raysem.audio.logmel import LogMel, LogMelSettings, mel_matrix

CLAP_2022 = LogMelSettings()
PANNS = LogMelSettings(sample_rate=32_000)


def _sound(settings: LogMelSettings, seconds: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    time_T = np.arange(int(seconds * settings.sample_rate)) / settings.sample_rate
    tones_T = 0.3 * np.sin(2 * np.pi * 440 * time_T) + 0.01 * rng.standard_normal(len(time_T))
    return (tones_T * np.linspace(0.001, 1, len(time_T))).astype(np.float32)


@pytest.mark.parametrize("settings", [CLAP_2022, PANNS], ids=["clap", "panns"])
def test_the_mel_matrix_is_librosas(settings: LogMelSettings) -> None:
    expected_FW = librosa.filters.mel(
        sr=settings.sample_rate,
        n_fft=settings.window_samples,
        n_mels=settings.num_mels,
        fmin=settings.min_hz,
        fmax=settings.max_hz,
        dtype=np.float64,
    )
    np.testing.assert_allclose(mel_matrix(settings), expected_FW.T, atol=1e-12)


@pytest.mark.parametrize("settings", [CLAP_2022, PANNS], ids=["clap", "panns"])
def test_the_log_mel_is_librosas(settings: LogMelSettings) -> None:
    sound_T = _sound(settings)
    power_FN = librosa.feature.melspectrogram(
        y=sound_T.astype(np.float64),
        sr=settings.sample_rate,
        n_fft=settings.window_samples,
        hop_length=settings.hop_samples,
        n_mels=settings.num_mels,
        fmin=settings.min_hz,
        fmax=settings.max_hz,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=2.0,
    )
    expected_FN = librosa.power_to_db(power_FN, ref=1.0, amin=1e-10, top_db=None)
    found_NF = LogMel(settings)(torch.from_numpy(sound_T)[None])[0].numpy()
    np.testing.assert_allclose(found_NF.T, expected_FN, atol=2e-3)
    assert np.abs(found_NF.T - expected_FN).mean() < 1e-4


def test_the_log_mel_is_what_the_definition_says() -> None:
    sound_T = _sound(CLAP_2022, 0.1).astype(np.float64)
    padded_T = np.pad(sound_T, 512, mode="reflect")
    window_S = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    rows = []
    for frame in range(len(sound_T) // 320 + 1):
        power_W = np.abs(np.fft.rfft(padded_T[320 * frame : 320 * frame + 1024] * window_S)) ** 2
        rows.append(10 * np.log10(np.maximum(power_W @ mel_matrix(CLAP_2022), 1e-10)))
    found_NF = LogMel()(torch.from_numpy(sound_T).float()[None])[0].numpy()
    np.testing.assert_allclose(found_NF, np.stack(rows), atol=2e-3)


def test_the_convolution_of_a_checkpoint_equals_the_fourier_transform() -> None:
    """Kernels as torchlibrosa computes them: (DFT matrix * window), transposed, real and imaginary part, float32."""
    size = 1024
    matrix = np.exp(-2j * np.pi / size) ** np.outer(np.arange(size), np.arange(size // 2 + 1))
    kernels_WS = (matrix * librosa.filters.get_window("hann", size, fftbins=True)[:, None]).T
    real = torch.from_numpy(kernels_WS.real[:, None].copy()).float()
    imag = torch.from_numpy(kernels_WS.imag[:, None].copy()).float()
    imported = LogMel.from_kernels(CLAP_2022, LogMel().melW, real, imag)
    sound_BT = torch.from_numpy(_sound(CLAP_2022))[None]
    padded = torch.nn.functional.pad(sound_BT[:, None], (512, 512), mode="reflect")
    power_BWN = sum(torch.nn.functional.conv1d(padded, kernel, stride=320) ** 2 for kernel in (real, imag))
    expected_BNF = 10 * (power_BWN.transpose(1, 2) @ imported.melW).clamp(min=1e-10).log10()
    torch.testing.assert_close(imported(sound_BT), expected_BNF, atol=5e-3, rtol=0)
    torch.testing.assert_close(imported(sound_BT), LogMel()(sound_BT), atol=1e-3, rtol=0)
