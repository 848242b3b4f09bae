"""What is said of a tagger's mistakes before and after: their distances in the ontology, class by class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from raysem.metrics.bootstrap import Interval


@dataclass(frozen=True)
class WrongClass:
    """A class that clips are wrongly called, its distance from the class they have, and how many wrong tags it is.

    Not a whole number where a tag lies as near to several labels of a clip.
    """

    name: str
    distance: int
    count: float


@dataclass(frozen=True)
class MovedTag:
    """On `num_clips` clips the surest wrong tag about a class went from one class to another; `clip` is the first."""

    before: str
    before_distance: int
    after: str
    after_distance: int
    num_clips: int
    clip: int  # row of the scores


@dataclass(frozen=True)
class ClassDistance:
    """Mean distance of the wrong tags about one true class, under one model and under the other; None without any."""

    name: str
    before: float | None
    after: float | None
    num_before: float
    num_after: float


@dataclass(frozen=True)
class ClassMove(ClassDistance):
    """The same with what the clips are called; `examples` are clips whose mistake moved the way the class did."""

    called_before: tuple[WrongClass, ...]
    called_after: tuple[WrongClass, ...]
    examples: tuple[MovedTag, ...]


@dataclass(frozen=True)
class MovedConfusions:
    """`before` and `after` are the mean distances of all wrong tags; None where a model has none."""

    set_name: str
    models: tuple[str, str]
    before: float | None
    after: float | None
    num_before: int
    num_after: int
    change: Interval | None  # after - before; below zero: the mistakes are nearer
    num_clips: tuple[int, int, int]  # of those wrong under both: nearer now, as near, farther
    closer: tuple[ClassMove, ...]
    farther: tuple[ClassMove, ...]
    per_class: tuple[ClassDistance, ...]  # every class, in its order

    def to_json(self) -> dict[str, Any]:
        """One entry of `moved_confusions` in summary.json."""
        nearer, same, farther = self.num_clips
        return {
            "set": self.set_name,
            "models": list(self.models),
            "before": self.before,
            "after": self.after,
            "num_before": self.num_before,
            "num_after": self.num_after,
            "change": None if self.change is None else self.change.estimate,
            "interval": None if self.change is None else self.change.to_json(),
            "interval_level": None if self.change is None else self.change.level,
            "num_clips": {"closer": nearer, "same": same, "farther": farther},
            "closer": [asdict(move) for move in self.closer],
            "farther": [asdict(move) for move in self.farther],
            "per_class": [asdict(distance) for distance in self.per_class],
        }
