"""One row of a batch of tagging: an augmented crop with its labels, perhaps mixed with another clip's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from raysem.audio.augment import AugmentSettings, augment, augment_time
from raysem.audio.crops import train_crop
from raysem.audio.mixup import mix_waveforms, mixup_ratio
from raysem.config import Settings
from raysem.training.clips import ClipLoader, UsableClip
from raysem.training.draws import draw_index, draw_seed
from raysem.training.examples import Example

# Shapes: T samples.


class MixupSettings(Settings):
    """Mixup of waveforms: two clips in one, with labels between 0 and 1."""

    probability: float = Field(0.0, ge=0, le=1)
    """Share of the examples that are mixed; the published AudioSet recipes take 0.5."""
    alpha: float = Field(10.0, gt=0)
    """The ratio is drawn from Beta(alpha, alpha)."""


@dataclass(frozen=True)
class TaggedCrops:
    """A crop with labels, fixed by (seed, epoch, clip_id): its offset, its augmentation, whether it is mixed, and how.

    The other clip of a mixture is drawn from the table in memory, or from the row group at hand, each clip as likely.
    """

    clips: ClipLoader
    crop_samples: int
    seed: int
    augmentation: AugmentSettings
    mixup: MixupSettings

    def reading(self, clips: ClipLoader) -> TaggedCrops:
        """The same examples, of the same rows read in another way."""
        return replace(self, clips=clips)

    def example(self, source: int, row: int, epoch: int) -> Example:
        """The example of a row in an epoch; a label's weight is the sum of the ratios of the clips that have it."""
        found = self.clips.usable(source, row, seed=self.seed, epoch=epoch)
        clip_id = found.clip.clip_id
        crop_T, labels = self._crop(found, epoch), dict.fromkeys(found.clip.texts, 1.0)
        if draw_seed("mixup", self.seed, epoch, clip_id) / 2**63 >= self.mixup.probability:
            return Example(crop_T, labels, clip_id, found.replaced)
        at_hand = self.clips.tables[source].block_of(row)
        partner = at_hand[draw_index(len(at_hand), "partner", self.seed, epoch, clip_id)]
        other = self.clips.usable(source, partner, seed=self.seed, epoch=epoch)
        ratio = mixup_ratio(self.mixup.alpha, seed=self.seed, epoch=epoch, clip_id=clip_id)
        mixed_T = mix_waveforms(crop_T, self._crop(other, epoch), ratio)
        mixed = mixed_labels(labels, dict.fromkeys(other.clip.texts, 1.0), ratio)
        return Example(mixed_T, mixed, clip_id, (*found.replaced, *other.replaced), num_clips=2)

    def _crop(self, found: UsableClip, epoch: int) -> np.ndarray:
        seed, clip_id, how = self.seed, found.clip.clip_id, self.augmentation
        clip_T = augment_time(found.samples_T, how, seed=seed, epoch=epoch, clip_id=clip_id)
        crop_T = train_crop(clip_T, self.crop_samples, seed=seed, epoch=epoch, clip_id=clip_id, fill=how.pad)
        return augment(crop_T, how, self.clips.sample_rate, seed=seed, epoch=epoch, clip_id=clip_id)


def mixed_labels(one: Mapping[str, float], other: Mapping[str, float], ratio: float) -> dict[str, float]:
    """ratio x one + (1 - ratio) x other, label by label."""
    names = dict.fromkeys([*one, *other])
    return {name: ratio * one.get(name, 0.0) + (1 - ratio) * other.get(name, 0.0) for name in names}
