"""Log-mel front end of the PANNs and CLAP-2022 family, batched, on the module's device."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from raysem.config import Settings

# Shapes: B clips, T samples, S samples of a window, N frames, W bins of the Fourier transform, F mel bins.

AMIN = 1e-10


class LogMelSettings(Settings):
    """Numbers of the front end; the defaults are CLAP-2022's. 5 s at 44.1 kHz give 690 frames."""

    sample_rate: PositiveInt = 44_100
    window_samples: PositiveInt = 1024
    """Length of the Hann window and of the Fourier transform."""
    hop_samples: PositiveInt = 320
    num_mels: PositiveInt = 64
    min_hz: float = Field(50.0, ge=0)
    max_hz: float = Field(14_000.0, gt=0)
    kernels: Literal["computed", "stored"] = "computed"
    """`stored`: mel matrix and STFT kernels are part of the weights (they came with an imported checkpoint)."""

    @model_validator(mode="after")
    def _check_band(self) -> LogMelSettings:
        if not self.min_hz < self.max_hz <= self.sample_rate / 2:
            raise ValueError(
                f"the mel band {self.min_hz:g}-{self.max_hz:g} Hz must lie below half of sample_rate {self.sample_rate}"
            )
        if self.window_samples % 2:
            raise ValueError(f"window_samples must be even, got {self.window_samples}")
        return self

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform of `num_samples`."""
        return num_samples // self.hop_samples + 1


class LogMel(nn.Module):
    """Waveform to log-mel: power STFT, mel matrix, 10 log10.

    The front end of PANNs (torchlibrosa): Hann window (periodic), centred frames with reflected ends, power spectrum,
    Slaney mel scale and area norm, 10 log10(max(x, 1e-10)), reference 1, no top_db. Always float32: autocast is
    switched off inside, for in half precision the power of a quiet frame is 0.

    With `settings.kernels == "stored"` the module holds `melW` (W, F), `stft_real` and `stft_imag` (W, S) as weights.
    A published checkpoint brings its own, also where they do not fit its sample rate: they are used as they are.
    """

    melW: Tensor
    window: Tensor
    stft_real: Tensor
    stft_imag: Tensor

    def __init__(self, settings: LogMelSettings | None = None):
        super().__init__()
        self.settings = settings = settings or LogMelSettings()
        stored = settings.kernels == "stored"
        window_S = torch.hann_window(settings.window_samples, periodic=True, dtype=torch.float64)
        self.register_buffer("melW", torch.from_numpy(mel_matrix(settings)).float(), persistent=stored)
        self.register_buffer("window", window_S.float(), persistent=False)
        self._is_fourier = True
        if stored:
            real_WS, imag_WS = _fourier_kernels(window_S)
            self.register_buffer("stft_real", real_WS.float())
            self.register_buffer("stft_imag", imag_WS.float())
            self.register_load_state_dict_post_hook(lambda module, _: module._recognise_kernels())

    @classmethod
    def from_kernels(cls, settings: LogMelSettings, mel_WF: Tensor, stft_real: Tensor, stft_imag: Tensor) -> LogMel:
        """A front end with the mel matrix and the STFT kernels, (W, S) or (W, 1, S), of a checkpoint."""
        log_mel = cls(settings.model_copy(update={"kernels": "stored"}))
        kernels = {"melW": mel_WF, "stft_real": stft_real.squeeze(1), "stft_imag": stft_imag.squeeze(1)}
        for name, tensor in kernels.items():
            expected = tuple(getattr(log_mel, name).shape)
            if tuple(tensor.shape) != expected:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)} does not fit the settings, expected {expected}")
        log_mel.load_state_dict({name: tensor.float() for name, tensor in kernels.items()})
        return log_mel

    def forward(self, waveform_BT: Tensor) -> Tensor:
        """logmel_BNF in dB, float32, N = T // hop + 1."""
        half_window = self.settings.window_samples // 2
        if waveform_BT.ndim != 2 or waveform_BT.shape[1] <= half_window:
            raise ValueError(
                f"expected waveforms (B, T) with more than {half_window} samples, got {tuple(waveform_BT.shape)}"
            )
        with torch.autocast(device_type=waveform_BT.device.type, enabled=False):
            power_BNW = self._power(waveform_BT.float())
            return 10 * (power_BNW @ self.melW).clamp(min=AMIN).log10()

    def _power(self, waveform_BT: Tensor) -> Tensor:
        size, hop = self.settings.window_samples, self.settings.hop_samples
        padded_BT = nn.functional.pad(waveform_BT[:, None], (size // 2, size // 2), mode="reflect")[:, 0]
        frames_BNS = padded_BT.unfold(1, size, hop)
        if not self._is_fourier:
            return (frames_BNS @ self.stft_real.T).square() + (frames_BNS @ self.stft_imag.T).square()
        # a third of the time of torch.stft, which lays the bins out the other way round
        spectrum_BNW = torch.fft.rfft(frames_BNS * self.window)
        return spectrum_BNW.real.square() + spectrum_BNW.imag.square()

    def _recognise_kernels(self) -> None:
        """Stored kernels that are a windowed Fourier transform run as one: the same numbers at a tenth of the cost."""
        window_S = self.stft_real[0].detach().cpu().double()  # the cosine of bin 0 is 1
        real_WS, imag_WS = _fourier_kernels(window_S)
        errors = [
            (stored.detach().cpu().double() - exact).abs().max().item()
            for stored, exact in [(self.stft_real, real_WS), (self.stft_imag, imag_WS)]
        ]
        self._is_fourier = max(errors) < 1e-5
        self.window.copy_(window_S)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings)


def _fourier_kernels(window_S: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the windowed Fourier basis, as in torchlibrosa's conv_real and conv_imag."""
    size = len(window_S)
    sample_S, bin_W = torch.arange(size), torch.arange(size // 2 + 1)
    angle_WS = (bin_W[:, None] * sample_S[None] % size).double() * (2 * math.pi / size)
    return angle_WS.cos() * window_S, -angle_WS.sin() * window_S


def mel_matrix(settings: LogMelSettings) -> np.ndarray:
    """Triangular mel filters (W, F), float64: Slaney's scale and area norm, librosa.filters.mel's defaults."""
    bins_W = np.linspace(0, settings.sample_rate / 2, settings.window_samples // 2 + 1)
    mels = np.linspace(_hz_to_mel(settings.min_hz), _hz_to_mel(settings.max_hz), settings.num_mels + 2)
    edges = np.array([_mel_to_hz(mel) for mel in mels])
    rising_WF = (bins_W[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling_WF = (edges[None, 2:] - bins_W[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising_WF, falling_WF)) * (2 / (edges[2:] - edges[:-2]))


# Slaney's scale: linear up to 1000 Hz (15 mel), then logarithmic.
_HZ_PER_MEL = 200 / 3
_LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _HZ_PER_MEL if hz < 1000 else 15 + math.log(hz / 1000) / _LOG_STEP


def _mel_to_hz(mel: float) -> float:
    return mel * _HZ_PER_MEL if mel < 15 else 1000 * math.exp((mel - 15) * _LOG_STEP)
