"""One row of a batch: a crop of a clip and what it is trained to be near."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from raysem.audio.crops import train_crop
from raysem.training.clips import ClipLoader
from raysem.training.rejects import UnusableClip

# Shapes: T samples.


@dataclass(frozen=True)
class Example:
    """A crop with its texts and their weights: one caption of weight 1, or labels between 0 and 1."""

    crop_T: np.ndarray
    texts: Mapping[str, float]
    clip_id: str
    unusable: tuple[UnusableClip, ...]
    """The clips that had to be replaced by others."""
    num_clips: int = 1
    """Clips that it is made of."""


class Examples(Protocol):
    """Makes examples of the rows of a few tables. A pure function, called by several threads."""

    @property
    def clips(self) -> ClipLoader: ...

    @property
    def crop_samples(self) -> int: ...

    def reading(self, clips: ClipLoader) -> Examples:
        """The same examples, of the same rows read in another way."""
        ...

    def example(self, source: int, row: int, epoch: int) -> Example:
        """The example of a row in an epoch.

        Raises:
            StageError: too many clips in a row cannot be used.
            StorageError: a clip or a row group cannot be reached.
        """
        ...


@dataclass(frozen=True)
class CaptionedCrops:
    """A crop and one caption, both fixed by (seed, epoch, clip_id)."""

    clips: ClipLoader
    crop_samples: int
    seed: int

    def reading(self, clips: ClipLoader) -> CaptionedCrops:
        """The same examples, of the same rows read in another way."""
        return replace(self, clips=clips)

    def example(self, source: int, row: int, epoch: int) -> Example:
        """The example of a row in an epoch."""
        found = self.clips.usable(source, row, seed=self.seed, epoch=epoch)
        crop_T = train_crop(found.samples_T, self.crop_samples, seed=self.seed, epoch=epoch, clip_id=found.clip.clip_id)
        caption = found.clip.caption(seed=self.seed, epoch=epoch)
        return Example(crop_T, {caption: 1.0}, found.clip.clip_id, found.replaced)
