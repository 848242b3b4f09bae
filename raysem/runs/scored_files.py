"""Audio files as a model scores them: decoded, cut into crops and scored in this process, one after the other."""

# Shapes: T samples of a file, C crops of it, S samples of a crop, K classes.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from raysem.audio.crops import even_crops
from raysem.audio.load import AudioSettings, load_clip
from raysem.errors import ClipError, StorageError


@dataclass(frozen=True)
class ScoredFile:
    """The probabilities of one file, or the reason why there are none."""

    file: str
    scores_K: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    """Mean over the crops; empty where there is an error."""
    seconds: float = 0.0
    heard_seconds: float = 0.0
    """Less than `seconds` where the crops leave something out."""
    error: str | None = None

    @property
    def heading(self) -> str:
        """The file, and how much of it was heard where that is not all."""
        seconds, heard = f"{self.seconds:.1f} s", f"{self.heard_seconds:.1f} s"
        return self.file if heard == seconds else f"{self.file}  ({heard} of {seconds} heard; --crops takes more)"


class FileAnswer(Protocol):
    """What a command tells about one file."""

    @property
    def scored(self) -> ScoredFile:
        """The file, and whether it can be used."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this file: `file`, and `error` where it cannot be used."""
        ...

    def describe(self) -> str:
        """A usable file as lines for a person."""
        ...


def score_files(
    files: Sequence[str],
    score: Callable[[np.ndarray], np.ndarray],
    *,
    audio: AudioSettings,
    crop_samples: int,
    num_crops: int,
) -> Iterator[ScoredFile]:
    """Each file, a local path or a URI, in the order given; one that cannot be used has its reason.

    Args:
        score: crops_CS -> scores_CK.
        audio: with the sample rate of the model.
        num_crops: evenly placed crops of a file longer than one crop.
    """
    for file in files:
        try:
            samples_T = load_clip(None, file, settings=audio)
        except (ClipError, StorageError) as error:
            yield ScoredFile(file, error=_reason(error, file))
            continue
        crops_CS = even_crops(samples_T, crop_samples, num_crops)
        heard = min(crops_CS.size, len(samples_T))
        rate = audio.sample_rate
        yield ScoredFile(file, score(crops_CS).mean(axis=0), len(samples_T) / rate, heard / rate)


def _reason(error: ClipError | StorageError, file: str) -> str:
    """One line, without the name of the file, which stands before it."""
    return " ".join(str(error).replace(f"{file}: ", "", 1).split())
