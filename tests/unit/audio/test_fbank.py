from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor
from transformers import ASTFeatureExtractor

from raysem.audio.fbank import Fbank, FbankSettings, kaldi_mel_matrix


def clips(num_samples: int, num_clips: int = 3) -> Tensor:
    """Noise, a tone and a click train, with an offset that Kaldi takes off."""
    time_T = torch.arange(num_samples) / 16_000
    noise_T = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    rows = [noise_T, torch.sin(2 * torch.pi * 440 * time_T) + 0.2, (time_T * 20 % 1 < 0.02) * 0.8 + noise_T / 100]
    return torch.stack(rows[:num_clips])


@pytest.mark.parametrize("num_samples", [160_000, 50_001, 400])
def test_it_is_the_feature_extractor_of_ast(num_samples: int):
    extractor = ASTFeatureExtractor()
    waveform_BT = clips(num_samples)
    expected_BNF = extractor(list(waveform_BT.numpy()), sampling_rate=16_000, return_tensors="np")["input_values"]
    fbank_BNF = Fbank()(waveform_BT)
    assert fbank_BNF.shape == (3, 1024, 128)
    np.testing.assert_allclose(fbank_BNF.numpy(), np.stack(list(expected_BNF)), rtol=0, atol=2e-3)


def test_it_is_kaldis_filter_bank_of_torchaudio():
    settings = FbankSettings(sample_rate=8000, window_samples=200, hop_samples=80, num_mels=40, num_frames=98, mean=0)
    waveform_BT = clips(8000, 1)
    expected_NF = torchaudio.compliance.kaldi.fbank(
        waveform_BT, sample_frequency=8000, window_type="hanning", num_mel_bins=40
    )
    assert expected_NF.shape == (98, 40)
    fbank_NF = Fbank(settings)(waveform_BT)[0] * 2 * settings.deviation
    torch.testing.assert_close(fbank_NF, expected_NF, rtol=0, atol=2e-3)


def test_frames_after_the_end_hold_the_normalised_zero():
    fbank_BNF = Fbank()(clips(16_000))
    assert (fbank_BNF[:, 98:] == 4.2677393 / (2 * 4.5689974)).all()
    assert fbank_BNF[:, :98].std() > 0.1


def test_a_row_does_not_depend_on_its_batch_nor_on_the_level_of_silence():
    fbank, waveform_BT = Fbank(), clips(20_000)
    torch.testing.assert_close(fbank(waveform_BT[1:2])[0], fbank(waveform_BT)[1], rtol=0, atol=1e-4)
    assert torch.equal(fbank(torch.zeros(1, 20_000)), fbank(torch.full((1, 20_000), 0.25)))


def test_it_is_float32_under_autocast():
    waveform_BT = clips(8000)
    with torch.autocast("cpu", torch.bfloat16):
        fbank_BNF = Fbank()(waveform_BT)
    assert torch.equal(fbank_BNF, Fbank()(waveform_BT))


@pytest.mark.parametrize("shape", [(2, 399), (2, 164_240), (400,), (1, 2, 400)])
def test_other_waveforms_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"expected waveforms \(B, T\) with 400 to 164239 samples"):
        Fbank()(torch.zeros(shape))


def test_each_filter_reaches_its_neighbours_centres():
    mel_WF = kaldi_mel_matrix(20, 512, 16_000, 20.0, 8000.0)
    assert mel_WF.shape == (257, 20)
    assert (mel_WF[-1] == 0).all()
    inside_W = (mel_WF.sum(dim=1) > 0).nonzero().flatten()
    first, last = mel_WF[:, 0].argmax(), mel_WF[:, -1].argmax()
    assert inside_W[0] <= 2
    # Between the first and the last centre the two slopes at each bin add up to 1.
    torch.testing.assert_close(mel_WF.sum(dim=1)[first + 1 : last], torch.ones(int(last - first) - 1))
