"""SpecAugment's masks on a batch of spectrograms, between the front end and the network."""

# Shapes: B clips, N frames, F mel bins.

from __future__ import annotations

import torch
import torchaudio
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from raysem.config import Settings

LARGEST_SHARE = 0.5
"""Of the frames or mel bins that one mask may cover."""


class SpecMaskSettings(Settings):
    """How much is masked; without a number of masks nothing is. AST and PaSST are trained with one of each."""

    num_masks_frequency: NonNegativeInt = 0
    """Bands masked in each clip; they may overlap."""
    max_bins: PositiveInt = 48
    """Each band is fewer mel bins wide than this; none is drawn too."""
    num_masks_time: NonNegativeInt = 0
    """Spans of time masked in each clip; they may overlap."""
    max_frames: PositiveInt = 192
    """Each span is fewer frames long than this; none is drawn too."""

    @property
    def is_on(self) -> bool:
        """Whether anything is masked."""
        return self.num_masks_frequency > 0 or self.num_masks_time > 0


def mask_spectrogram(spectrogram_BNF: Tensor, settings: SpecMaskSettings) -> Tensor:
    """The batch with bands and spans of each clip set to the clip's own mean; for training only.

    SpecAugment (Park et al. 2019) masks with the mean of a spectrogram normalised by itself. The mean of the clip is
    that value for every front end: in dB 0 would be the loudest, and where the front end normalises by the corpus it is
    near the 0 of other recipes (PANNs masks with 0 after its first batch norm, AST and PaSST with 0 before their
    normalisation). Widths and places are drawn as `torchaudio.functional.mask_along_axis_iid` does, for each clip
    anew, from torch's global generator of the spectrogram's device (its rounding spares the very last bin and frame);
    a mask covers half of its axis at most.
    """
    if spectrogram_BNF.dim() != 3:
        raise ValueError(f"expected spectrograms (clips, frames, mels), got {tuple(spectrogram_BNF.shape)}")
    if not settings.is_on:
        return spectrogram_BNF
    num_clips, frames, mels = spectrogram_BNF.shape
    kept_BN1 = torch.ones(num_clips, frames, 1, device=spectrogram_BNF.device)
    kept_B1F = torch.ones(num_clips, 1, mels, device=spectrogram_BNF.device)
    for _ in range(settings.num_masks_frequency):
        kept_B1F = torchaudio.functional.mask_along_axis_iid(kept_B1F, settings.max_bins, 0.0, 2, LARGEST_SHARE)
    for _ in range(settings.num_masks_time):
        kept_BN1 = torchaudio.functional.mask_along_axis_iid(kept_BN1, settings.max_frames, 0.0, 1, LARGEST_SHARE)
    mean_B11 = spectrogram_BNF.mean(dim=(1, 2), keepdim=True)
    return torch.where(kept_BN1 * kept_B1F > 0, spectrogram_BNF, mean_B11)
