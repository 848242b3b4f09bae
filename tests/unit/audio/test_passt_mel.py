from __future__ import annotations

import pytest
import torch
import torchaudio
from pydantic import ValidationError
from torch import Tensor

from raysem.audio.passt_mel import PasstMel, PasstMelSettings


def clips(num_samples: int, num_clips: int = 3) -> Tensor:
    time_T = torch.arange(num_samples) / 32_000
    noise_T = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    rows = [noise_T, torch.sin(2 * torch.pi * 880 * time_T), (time_T * 20 % 1 < 0.02) * 0.8 + noise_T / 100]
    return torch.stack(rows[:num_clips])


def slow_mel(waveform_T: Tensor, *, max_hz: float = 15_000.0) -> Tensor:
    """One clip, by torch.stft and torchaudio's filters, written from the published description."""
    sharp_T = torch.nn.functional.conv1d(waveform_T[None, None], torch.tensor([[[-0.97, 1.0]]]))[0, 0]
    window = torch.hann_window(800, periodic=False)
    spectrum_WN = torch.stft(sharp_T, 1024, 320, 800, window, center=True, return_complex=True)
    power_WN = torch.view_as_real(spectrum_WN).square().sum(-1)
    mel_FW, _ = torchaudio.compliance.kaldi.get_mel_banks(128, 1024, 32_000, 0.0, max_hz, 100.0, -500.0, 1.0)
    return ((torch.nn.functional.pad(mel_FW, (0, 1)) @ power_WN + 0.00001).log().T + 4.5) / 5.0


@pytest.mark.parametrize("num_samples", [320_000, 50_000, 600])
def test_it_is_the_published_front_end(num_samples: int):
    waveform_BT = clips(num_samples)
    mel_BNF = PasstMel().eval()(waveform_BT)
    expected_BNF = torch.stack([slow_mel(waveform_T) for waveform_T in waveform_BT])
    assert mel_BNF.shape == (3, (num_samples - 1) // 320 + 1, 128)
    torch.testing.assert_close(mel_BNF, expected_BNF, rtol=0, atol=2e-4)


def test_the_band_moves_in_training_only_and_by_draws_that_a_seed_repeats():
    mel, waveform_BT = PasstMel(), clips(16_000)
    mel.eval()
    assert torch.equal(mel(waveform_BT), mel(waveform_BT))
    mel.train()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(mel(waveform_BT))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_upper_end_of_the_band_is_drawn_from_1000_hz_around_it():
    mel, waveform_BT = PasstMel(PasstMelSettings(min_hz_jitter=0)).train(), clips(4000, 1)
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mel_NF = mel(waveform_BT)[0]
        torch.manual_seed(seed)
        torch.randint(1, ())
        max_hz = 16_000 - int(torch.randint(2000, ()))
        torch.testing.assert_close(mel_NF, slow_mel(waveform_BT[0], max_hz=max_hz), rtol=0, atol=2e-4)
        seen.add(max_hz)
    assert len(seen) > 15


def test_without_jitter_nothing_is_drawn():
    mel = PasstMel(PasstMelSettings(min_hz_jitter=0, max_hz_jitter=0)).train()
    before = torch.get_rng_state()
    mel(clips(4000))
    assert torch.equal(before, torch.get_rng_state())


def test_a_row_does_not_depend_on_its_batch_and_is_float32_under_autocast():
    mel, waveform_BT = PasstMel().eval(), clips(20_000)
    together_BNF = mel(waveform_BT)
    torch.testing.assert_close(mel(waveform_BT[1:2])[0], together_BNF[1], rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel(waveform_BT), together_BNF)


@pytest.mark.parametrize("shape", [(2, 513), (600,), (1, 2, 600)])
def test_other_waveforms_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected waveforms .* with more than 513 samples"):
        PasstMel()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 16_000}, "must lie below half of sample_rate 16000"),
        ({"max_hz": 15_500.0}, "with its jitter must lie below"),
        ({"window_samples": 2000}, "fft_samples must be even and at least window_samples 2000"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(settings: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        PasstMelSettings(**settings)
