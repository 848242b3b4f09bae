from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raysem.audio.spec_mask import SpecMaskSettings, mask_spectrogram
from raysem.config import build
from raysem.errors import ConfigError


def noise(num_clips: int, frames: int = 60, mels: int = 40) -> Tensor:
    """Clips of different loudness, in dB; in float64, so that no value happens to be the mean of its clip."""
    noise_BNF = torch.randn(num_clips, frames, mels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise_BNF - 10.0 * torch.arange(num_clips)[:, None, None]


def masked(spectrogram_BNF: Tensor, *, seed: int = 0, **numbers: int) -> Tensor:
    torch.manual_seed(seed)
    return mask_spectrogram(spectrogram_BNF, SpecMaskSettings(**numbers))


def hidden(num_clips: int, **numbers: int) -> Tensor:
    """Which cells are masked (B, N, F)."""
    return masked(noise(num_clips), **numbers) != noise(num_clips)


def lengths(hidden_BL: Tensor) -> list[int]:
    """Of the one run in each row."""
    for row in hidden_BL.tolist():
        assert "".join("01"[hidden] for hidden in row).strip("0").strip("1") == "", "one run"
    return hidden_BL.sum(dim=1).tolist()


def test_masked_cells_are_the_mean_of_their_clip_and_the_others_stay_to_the_bit():
    before_BNF = noise(50)
    after_BNF = masked(before_BNF, num_masks_frequency=2, max_bins=10, num_masks_time=2, max_frames=20)
    hidden_BNF = after_BNF != before_BNF
    assert 0.05 < hidden_BNF.float().mean() < 0.6
    expected_BNF = before_BNF.mean(dim=(1, 2), keepdim=True).expand_as(before_BNF)
    assert torch.equal(after_BNF[hidden_BNF], expected_BNF[hidden_BNF])


def test_a_band_covers_all_frames_and_a_span_all_bins():
    bands_BNF = hidden(300, num_masks_frequency=1, max_bins=6)
    assert torch.equal(bands_BNF.any(dim=1), bands_BNF.all(dim=1))
    assert set(lengths(bands_BNF.all(dim=1))) == {0, 1, 2, 3, 4, 5}
    spans_BNF = hidden(300, num_masks_time=1, max_frames=4)
    assert torch.equal(spans_BNF.any(dim=2), spans_BNF.all(dim=2))
    assert set(lengths(spans_BNF.all(dim=2))) == {0, 1, 2, 3}
    both_BNF = hidden(20, num_masks_frequency=1, max_bins=6, num_masks_time=1, max_frames=4)
    bands_B1F, spans_BN1 = both_BNF.all(dim=1, keepdim=True), both_BNF.all(dim=2, keepdim=True)
    assert torch.equal(both_BNF, bands_B1F | spans_BN1)


def test_masks_lie_anywhere_but_on_the_very_last_bin_or_frame():
    bands_BF = hidden(400, num_masks_frequency=1, max_bins=8).all(dim=1)
    spans_BN = hidden(400, num_masks_time=1, max_frames=8).all(dim=2)
    assert bands_BF.any(dim=0).tolist() == [True] * 39 + [False]
    assert spans_BN.any(dim=0).tolist() == [True] * 59 + [False]


def test_each_clip_has_its_own_masks_and_more_masks_hide_more():
    one_BF = hidden(200, num_masks_frequency=1, max_bins=8).all(dim=1)
    assert len(one_BF.unique(dim=0)) > 100
    assert hidden(200, num_masks_frequency=3, max_bins=8).sum() > 2 * one_BF.sum() * 60


def test_a_mask_covers_at_most_half_of_its_axis():
    assert max(lengths(hidden(300, num_masks_frequency=1, max_bins=500).all(dim=1))) == 19
    assert max(lengths(hidden(300, num_masks_time=1, max_frames=500).all(dim=2))) == 29


def test_a_seed_repeats_the_masks():
    numbers = {"num_masks_frequency": 1, "max_bins": 10, "num_masks_time": 1, "max_frames": 20}
    first_BNF, again_BNF, other_BNF = (masked(noise(9), seed=seed, **numbers) for seed in (3, 3, 4))
    assert torch.equal(first_BNF, again_BNF)
    assert not torch.equal(first_BNF, other_BNF)


def test_a_louder_spectrogram_is_masked_alike():
    numbers = {"num_masks_frequency": 1, "max_bins": 10, "num_masks_time": 1, "max_frames": 20}
    torch.testing.assert_close(masked(noise(9) + 30, **numbers), masked(noise(9), **numbers) + 30)


def test_without_masks_nothing_changes_and_nothing_is_drawn():
    before, spectrogram_BNF = torch.get_rng_state(), noise(3)
    assert mask_spectrogram(spectrogram_BNF, SpecMaskSettings()) is spectrogram_BNF
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(masked(noise(3), num_masks_frequency=2, max_bins=1), noise(3))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"expected spectrograms \(clips, frames, mels\), got \(60, 40\)"):
        mask_spectrogram(noise(1)[0], SpecMaskSettings(num_masks_time=1))
    with pytest.raises(ConfigError, match="num_masks_time: expected greater than or equal to 0, got -1"):
        build(SpecMaskSettings, {"num_masks_time": -1})
    with pytest.raises(ConfigError, match=r"max_bins: expected greater than 0, got 0"):
        build(SpecMaskSettings, {"max_bins": 0})
