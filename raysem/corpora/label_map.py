"""Label maps: which classes of an ontology the labels of a corpus stand for.

A csv with the columns label, class and, for people, reason. A label that stands for several classes has a line for
each. raysem carries `esc50_audioset` and `synthetic_audioset`, onto the display names of AudioSet's classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from raysem import config, storage
from raysem.errors import DataError
from raysem.ontology.csv_rows import csv_rows
from raysem.ontology.embedded import label_map_file


@dataclass(frozen=True)
class LabelMap:
    """The lines of a map as (label, class), in their order, and where they were read."""

    location: storage.Location
    rows: tuple[tuple[str, str], ...]

    @cached_property
    def classes_of(self) -> Mapping[str, tuple[str, ...]]:
        """The classes of each label."""
        found: dict[str, list[str]] = {}
        for label, name in self.rows:
            found.setdefault(label, []).append(name)
        return {label: tuple(names) for label, names in found.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class that the map names, once, in the order of its lines."""
        return tuple(dict.fromkeys(name for _, name in self.rows))

    @property
    def digest(self) -> str:
        """Of the labels and their classes: a new reason, or another order of the labels, does not change it."""
        return config.digest(dict(self.classes_of))

    def apply(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The classes of the labels, each once, in the order of the labels.

        Raises:
            DataError: a label that the map does not know, spelled as it is.
        """
        classes: dict[str, None] = {}
        for label in labels:
            if label not in self.classes_of:
                raise DataError(
                    f"{self.location}: label {label!r} has no class; add a line with label, class and reason for it, "
                    "in a copy if the map is raysem's own, and name that copy"
                )
            classes |= dict.fromkeys(self.classes_of[label])
        return tuple(classes)


def read_label_map(named: str) -> LabelMap:
    """A label map that raysem carries, by name, or one of the user's, by its path or URI.

    Raises:
        ConfigError: no such name.
        DataError: no such file; a line without label or class; a line that stands twice; no line.
    """
    location = label_map_file(named)
    rows: dict[tuple[str, str], None] = {}
    for place, row in csv_rows(location, ("label", "class")):
        for column, value in row.items():
            if not value:
                raise DataError(f"{place}: column {column!r} is empty")
        pair = row["label"], row["class"]
        if pair in rows:
            raise DataError(f"{place}: label {pair[0]!r} has the class {pair[1]!r} already")
        rows[pair] = None
    if not rows:
        raise DataError(f"{location}: maps no label")
    return LabelMap(location, tuple(rows))
