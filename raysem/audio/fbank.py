"""Kaldi's log-mel filter bank as AST was trained on, batched, on the module's device."""

# Shapes: B clips, T samples, S samples of a window, N frames, W bins of the Fourier transform, F mel bins.

from __future__ import annotations

import torch
import torchaudio.compliance.kaldi as kaldi
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from raysem.config import Settings

PREEMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps


class FbankSettings(Settings):
    """Numbers of the front end; the defaults are those of AST on AudioSet. 10 s give 998 frames and 26 of padding."""

    sample_rate: PositiveInt = 16_000
    window_samples: PositiveInt = 400
    hop_samples: PositiveInt = 160
    num_mels: int = Field(128, ge=4)
    min_hz: float = Field(20.0, ge=0)
    num_frames: PositiveInt = 1024
    """Every spectrogram has so many frames: shorter ones are padded with 0 before they are normalised."""
    mean: float = -4.2677393
    """Mean of the log-mel values of AudioSet."""
    deviation: PositiveFloat = 4.5689974
    """Their standard deviation; spectrograms are divided by twice of it."""

    @property
    def fft_samples(self) -> int:
        """Length of the Fourier transform: the next power of two."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def max_samples(self) -> int:
        """Samples of the longest waveform."""
        return self.window_samples + self.num_frames * self.hop_samples - 1


class Fbank(nn.Module):
    """Waveform to normalised log-mel filter bank.

    Kaldi's with a Hann window, per frame: mean taken off, pre-emphasis 0.97, power spectrum, Kaldi's mel scale, natural
    logarithm; no dither, frames at the edges left out. The same as `torchaudio.compliance.kaldi.fbank`, which takes one
    clip, and as `ASTFeatureExtractor`, except that it cuts clips that are too long. Always float32.
    """

    mel_WF: Tensor
    window_S: Tensor

    def __init__(self, settings: FbankSettings | None = None):
        super().__init__()
        self.settings = settings = settings or FbankSettings()
        mel_WF = kaldi_mel_matrix(
            settings.num_mels, settings.fft_samples, settings.sample_rate, settings.min_hz, settings.sample_rate / 2
        )
        self.register_buffer("mel_WF", mel_WF, persistent=False)
        self.register_buffer("window_S", torch.hann_window(settings.window_samples, periodic=False), persistent=False)

    def forward(self, waveform_BT: Tensor) -> Tensor:
        """logmel_BNF, float32, of `num_frames` frames."""
        settings = self.settings
        shortest, longest = settings.window_samples, settings.max_samples
        if waveform_BT.ndim != 2 or not shortest <= waveform_BT.shape[1] <= longest:
            raise ValueError(
                f"expected waveforms (B, T) with {shortest} to {longest} samples, got {tuple(waveform_BT.shape)}"
            )
        with torch.autocast(device_type=waveform_BT.device.type, enabled=False):
            frames_BNS = waveform_BT.float().unfold(1, settings.window_samples, settings.hop_samples)
            frames_BNS = frames_BNS - frames_BNS.mean(dim=2, keepdim=True)
            before_BNS = torch.cat([frames_BNS[..., :1], frames_BNS[..., :-1]], dim=2)
            frames_BNS = (frames_BNS - PREEMPHASIS * before_BNS) * self.window_S
            spectrum_BNW = torch.fft.rfft(frames_BNS, n=settings.fft_samples)
            power_BNW = spectrum_BNW.real.square() + spectrum_BNW.imag.square()
            logmel_BNF = (power_BNW @ self.mel_WF).clamp(min=FLOOR).log()
            padding = settings.num_frames - logmel_BNF.shape[1]
            return (nn.functional.pad(logmel_BNF, (0, 0, 0, padding)) - settings.mean) / (2 * settings.deviation)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings)


def kaldi_mel_matrix(num_mels: int, fft_samples: int, sample_rate: int, min_hz: float, max_hz: float) -> Tensor:
    """Triangular filters (W, F), float32, on Kaldi's mel scale, 1127 ln(1 + f / 700); the highest bin weighs 0."""
    bank_FW, _ = kaldi.get_mel_banks(num_mels, fft_samples, sample_rate, min_hz, max_hz, 100.0, -500.0, 1.0)
    return nn.functional.pad(bank_FW, (0, 1)).T.contiguous()
