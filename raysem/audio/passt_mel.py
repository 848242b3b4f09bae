"""Log-mel front end of PaSST, which EfficientAT took over; batched, on the module's device."""

# Shapes: B clips, T samples, S samples of a window, N frames, W bins of the Fourier transform, F mel bins.

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from raysem.audio.fbank import PREEMPHASIS, kaldi_mel_matrix
from raysem.config import Settings

FLOOR = 1e-5


class PasstMelSettings(Settings):
    """Numbers of the front end; the defaults are those of the published checkpoints. 10 s give 1000 frames."""

    sample_rate: PositiveInt = 32_000
    window_samples: PositiveInt = 800
    """Length of the Hann window, at most `fft_samples`."""
    fft_samples: PositiveInt = 1024
    hop_samples: PositiveInt = 320
    num_mels: int = Field(128, ge=4)
    min_hz: float = Field(0.0, ge=0)
    max_hz: float = Field(15_000.0, gt=0)
    min_hz_jitter: NonNegativeInt = 10
    """In training the lower end of the band is up to so many Hz higher, drawn for each batch."""
    max_hz_jitter: NonNegativeInt = 1000
    """In training the upper end is up to so many Hz higher or lower, drawn for each batch."""

    @model_validator(mode="after")
    def _check(self) -> PasstMelSettings:
        lowest, highest = self.max_hz - self.max_hz_jitter, self.max_hz + self.max_hz_jitter
        if not self.min_hz + self.min_hz_jitter < lowest <= highest <= self.sample_rate / 2:
            raise ValueError(
                f"the mel band {self.min_hz:g}-{self.max_hz:g} Hz with its jitter must lie below half of sample_rate "
                f"{self.sample_rate}"
            )
        if self.window_samples > self.fft_samples or self.fft_samples % 2:
            raise ValueError(
                f"fft_samples must be even and at least window_samples {self.window_samples}, got {self.fft_samples}"
            )
        return self


class PasstMel(nn.Module):
    """Waveform to normalised log-mel.

    PaSST (Koutini et al. 2022; repository kkoutini/PaSST, models/preprocess.py): pre-emphasis 0.97, which costs one
    sample; centred frames with reflected ends; power spectrum; Kaldi's mel scale; (ln(x + 1e-5) + 4.5) / 5. In training
    the mel band is drawn anew for each batch, from torch's global generator: whole Hz, `min_hz` plus 0 to
    `min_hz_jitter` - 1, `max_hz` plus 1 - jitter to jitter. No SpecAugment here. Always float32.
    """

    mel_WF: Tensor
    window_S: Tensor

    def __init__(self, settings: PasstMelSettings | None = None):
        super().__init__()
        self.settings = settings = settings or PasstMelSettings()
        self.register_buffer("mel_WF", self._mel_matrix(settings.min_hz, settings.max_hz), persistent=False)
        window_S = torch.hann_window(settings.window_samples, periodic=False)
        left = (settings.fft_samples - settings.window_samples) // 2
        right = settings.fft_samples - settings.window_samples - left
        self.register_buffer("window_S", nn.functional.pad(window_S, (left, right)), persistent=False)

    def forward(self, waveform_BT: Tensor) -> Tensor:
        """logmel_BNF, float32, N = (T - 1) // hop + 1."""
        settings = self.settings
        half_window = settings.fft_samples // 2
        if waveform_BT.ndim != 2 or waveform_BT.shape[1] <= half_window + 1:
            raise ValueError(
                f"expected waveforms (B, T) with more than {half_window + 1} samples, got {tuple(waveform_BT.shape)}"
            )
        with torch.autocast(device_type=waveform_BT.device.type, enabled=False):
            waveform_BT = waveform_BT.float()
            sharp_BT = waveform_BT[:, 1:] - PREEMPHASIS * waveform_BT[:, :-1]
            sharp_BT = nn.functional.pad(sharp_BT[:, None], (half_window, half_window), mode="reflect")[:, 0]
            frames_BNS = sharp_BT.unfold(1, settings.fft_samples, settings.hop_samples)
            spectrum_BNW = torch.fft.rfft(frames_BNS * self.window_S)
            power_BNW = spectrum_BNW.real.square() + spectrum_BNW.imag.square()
            return ((power_BNW @ self._drawn_mel_matrix() + FLOOR).log() + 4.5) / 5

    def _drawn_mel_matrix(self) -> Tensor:
        settings = self.settings
        if not self.training or not (settings.min_hz_jitter or settings.max_hz_jitter):
            return self.mel_WF
        low = int(torch.randint(max(settings.min_hz_jitter, 1), ()))
        high = settings.max_hz_jitter - int(torch.randint(max(2 * settings.max_hz_jitter, 1), ()))
        return self._mel_matrix(settings.min_hz + low, settings.max_hz + high).to(self.mel_WF.device)

    def _mel_matrix(self, min_hz: float, max_hz: float) -> Tensor:
        settings = self.settings
        return kaldi_mel_matrix(settings.num_mels, settings.fft_samples, settings.sample_rate, min_hz, max_hz)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings)
