from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raysem.audio.logmel import LogMel, LogMelSettings

SMALL = LogMelSettings(sample_rate=16_000, window_samples=256, hop_samples=80, num_mels=20, max_hz=7000)


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_five_seconds_give_690_frames_of_64_mels() -> None:
    log_mel = LogMel()
    assert log_mel(_noise(2, 220_500)).shape == (2, 690, 64)
    assert LogMelSettings().num_frames(220_500) == 690


def test_silence_is_minus_100_db_everywhere() -> None:
    torch.testing.assert_close(LogMel(SMALL)(torch.zeros(1, 1000)), torch.full((1, 13, 20), -100.0))


def test_ten_times_the_level_is_20_db_more() -> None:
    waveform_BT = _noise(1, 4000)
    torch.testing.assert_close(LogMel(SMALL)(10 * waveform_BT), LogMel(SMALL)(waveform_BT) + 20, atol=1e-3, rtol=0)


def test_rows_do_not_depend_on_their_batch() -> None:
    waveform_BT = _noise(5, 4000)
    one_by_one = torch.cat([LogMel(SMALL)(waveform_T[None]) for waveform_T in waveform_BT])
    torch.testing.assert_close(LogMel(SMALL)(waveform_BT), one_by_one, atol=1e-4, rtol=0)


def test_autocast_does_not_reach_it() -> None:
    log_mel, waveform_BT = LogMel(SMALL), 1e-4 * _noise(1, 4000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = log_mel(waveform_BT)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, log_mel(waveform_BT), atol=0, rtol=0)


def test_gradients_reach_the_waveform() -> None:
    waveform_BT = _noise(1, 2000).requires_grad_()
    LogMel(SMALL)(waveform_BT).sum().backward()
    assert waveform_BT.grad is not None
    assert waveform_BT.grad.isfinite().all()


def test_a_computed_front_end_adds_nothing_to_the_weights() -> None:
    assert LogMel(SMALL).state_dict() == {}


def test_a_stored_front_end_survives_its_state_dict() -> None:
    settings = SMALL.model_copy(update={"kernels": "stored"})
    source = LogMel.from_kernels(SMALL, 2 * LogMel(SMALL).melW, *_random_kernels())
    target = LogMel(settings)
    assert set(source.state_dict()) == {"melW", "stft_real", "stft_imag"}
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target(_noise(1, 2000)), source(_noise(1, 2000)), atol=0, rtol=0)
    assert source.settings == settings


def _random_kernels() -> tuple[torch.Tensor, torch.Tensor]:
    return _noise(129, 1, 256), _noise(129, 256)


def test_foreign_kernels_are_used_as_they_are() -> None:
    real, imag = _random_kernels()
    log_mel = LogMel.from_kernels(SMALL, LogMel(SMALL).melW, real, imag)
    waveform_BT = _noise(2, 2000)
    padded = torch.nn.functional.pad(waveform_BT[:, None], (128, 128), mode="reflect")
    power_BWN = torch.nn.functional.conv1d(padded, real, stride=80) ** 2
    power_BWN += torch.nn.functional.conv1d(padded, imag[:, None], stride=80) ** 2
    expected = 10 * (power_BWN.transpose(1, 2) @ log_mel.melW).clamp(min=1e-10).log10()
    torch.testing.assert_close(log_mel(waveform_BT), expected, atol=1e-4, rtol=1e-5)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"more than 128 samples, got \(1, 128\)"):
        LogMel(SMALL)(torch.zeros(1, 128))
    with pytest.raises(ValueError, match=r"melW: shape \(129, 64\) does not fit the settings, expected \(129, 20\)"):
        LogMel.from_kernels(SMALL, torch.zeros(129, 64), *_random_kernels())
    with pytest.raises(ValidationError, match="must lie below half of sample_rate 16000"):
        LogMelSettings(sample_rate=16_000)


def test_settings_are_numbers_with_their_units() -> None:
    assert np.isclose(LogMelSettings().min_hz, 50)
