"""A tagger's tags for audio files: decoded, cut, scored and ranked in this process, one file after the other."""

# Shapes: N clips, K classes, T samples, C crops of one clip.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt

from raysem import storage
from raysem.audio.crops import even_crops
from raysem.audio.load import AudioSettings, load_clip
from raysem.config import Settings
from raysem.errors import ClipError, DataError, StorageError
from raysem.models.tagger_checkpoint import load_tagger, read_tagger_config


class TagSettings(Settings):
    """How a clip is heard, and which of its classes are told."""

    num_tags: PositiveInt = 5
    """At most so many classes a clip, those of highest probability."""
    threshold: float = Field(0.0, ge=0, le=1)
    """Classes of a lower probability are left out."""
    num_crops: PositiveInt = 1
    """Evenly placed crops of a clip longer than one crop; their probabilities are averaged. One crop is the centre, as
    in the evaluation of a run."""


@dataclass(frozen=True)
class FileTag:
    """A class of a file. `parents` are names in the ontology; a model that knows of none has none."""

    name: str
    id: str
    probability: float
    parents: tuple[str, ...]


@dataclass(frozen=True)
class FileTags:
    """What a tagger makes of one file: its tags, best first, or the reason why there are none."""

    file: str
    tags: tuple[FileTag, ...] = ()
    seconds: float = 0.0
    heard_seconds: float = 0.0
    """Less than `seconds` where the crops leave something out."""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this file: `file`, and `tags` or `error`."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        tags = [
            {"name": tag.name, "id": tag.id, "probability": tag.probability, "parents": list(tag.parents)}
            for tag in self.tags
        ]
        return {"file": self.file, "tags": tags}


class FileTagger:
    """A tagger from its checkpoint folder, on the GPU where there is one.

    Raises:
        UserError: there is no tagger, or it is damaged; see `load_tagger`.
    """

    def __init__(self, location: storage.Location, settings: TagSettings, audio: AudioSettings | None = None):
        self._location, self._settings = location, settings
        self._parents = parents_of(read_tagger_config(location).extra)
        self._tagger = load_tagger(location, "cuda" if torch.cuda.is_available() else "cpu")
        self._audio = (audio or AudioSettings()).model_copy(update={"sample_rate": self._tagger.sample_rate})

    def tag(self, files: Sequence[str]) -> Iterator[FileTags]:
        """The tags of each file, a local path or a URI, in the order given; one that cannot be used has its reason."""
        for file in files:
            try:
                samples_T = load_clip(None, file, settings=self._audio)
            except (ClipError, StorageError) as error:
                yield FileTags(file, error=_reason(error, file))
                continue
            yield self._tags_of(file, samples_T)

    def _tags_of(self, file: str, samples_T: np.ndarray) -> FileTags:
        tagger = self._tagger
        crops_CT = even_crops(samples_T, tagger.crop_samples, self._settings.num_crops)
        scores_NK = tagger.score_waveforms(crops_CT).mean(axis=0, keepdims=True)
        best = best_classes(scores_NK, self._settings, where=self._location)[0]
        tags = tuple(
            FileTag(
                tagger.class_names[index],
                tagger.class_ids[index],
                float(scores_NK[0, index]),
                self._parents.get(tagger.class_names[index], ()),
            )
            for index in best
        )
        heard = min(crops_CT.size, len(samples_T))
        return FileTags(file, tags, len(samples_T) / tagger.sample_rate, heard / tagger.sample_rate)


def best_classes(scores_NK: np.ndarray, settings: TagSettings, *, where: str) -> list[list[int]]:
    """The places of each clip's classes, best first; of equal scores the first class.

    Raises:
        DataError: a score is NaN or infinite; the message begins with `where`.
    """
    if not np.isfinite(scores_NK).all():
        row, place = np.argwhere(~np.isfinite(scores_NK))[0].tolist()
        raise DataError(f"{where}: the score of class {place} is {scores_NK[row, place]}, the model is of no use")
    order_NK = np.argsort(-scores_NK, axis=1, kind="stable")[:, : settings.num_tags]
    return [
        [place for place in row if scores_K[place] >= settings.threshold]
        for row, scores_K in zip(order_NK.tolist(), scores_NK, strict=True)
    ]


def parents_of(extra: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The parents of each class, as training notes them in a checkpoint."""
    return {name: tuple(parents) for name, parents in (extra.get("parents") or {}).items()}


def _reason(error: ClipError | StorageError, file: str) -> str:
    """One line, without the name of the file, which stands before it."""
    return " ".join(str(error).replace(f"{file}: ", "", 1).split())


def describe(found: FileTags) -> str:
    """The tags of a usable file as lines for a person."""
    seconds, heard = f"{found.seconds:.1f} s", f"{found.heard_seconds:.1f} s"
    lines = [found.file if heard == seconds else f"{found.file}  ({heard} of {seconds} heard; --crops takes more)"]
    for tag in found.tags:
        lines.append(f"  {tag.probability:.4f}  {tag.name}" + (f"  ({'; '.join(tag.parents)})" if tag.parents else ""))
    return "\n".join(lines if found.tags else [*lines, "  no class reaches the threshold"])
