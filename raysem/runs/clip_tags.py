"""A tagger's tags for audio files: the best of its classes, with their parents in the ontology."""

# Shapes: N clips, K classes.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import Settings
from raysem.errors import DataError
from raysem.models.tagger_checkpoint import load_tagger, read_tagger_config
from raysem.runs.scored_files import ScoredFile, score_files


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
    """What a tagger makes of one file: its tags, best first; none where it cannot be used."""

    scored: ScoredFile
    tags: tuple[FileTag, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this file: `file`, and `tags` or `error`."""
        if self.scored.error is not None:
            return {"file": self.scored.file, "error": self.scored.error}
        tags = [
            {"name": tag.name, "id": tag.id, "probability": tag.probability, "parents": list(tag.parents)}
            for tag in self.tags
        ]
        return {"file": self.scored.file, "tags": tags}

    def describe(self) -> str:
        """The tags of a usable file as lines for a person."""
        lines = [self.scored.heading]
        for tag in self.tags:
            parents = f"  ({'; '.join(tag.parents)})" if tag.parents else ""
            lines.append(f"  {tag.probability:.4f}  {tag.name}{parents}")
        return "\n".join(lines if self.tags else [*lines, "  no class reaches the threshold"])


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
        for scored in score_files(
            files,
            self._tagger.score_waveforms,
            audio=self._audio,
            crop_samples=self._tagger.crop_samples,
            num_crops=self._settings.num_crops,
        ):
            yield FileTags(scored, self._tags_of(scored) if scored.error is None else ())

    def _tags_of(self, scored: ScoredFile) -> tuple[FileTag, ...]:
        names = self._tagger.class_names
        best = best_classes(scored.scores_K[None], self._settings, where=self._location)[0]
        return tuple(
            FileTag(
                names[index],
                self._tagger.class_ids[index],
                float(scored.scores_K[index]),
                self._parents.get(names[index], ()),
            )
            for index in best
        )


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
