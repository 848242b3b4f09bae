"""The classes of a tagger as a run keeps them: names, ids, parents, distances and, for SPA, vectors of their texts."""

# Shapes: K classes, D width of the text encoder.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from raysem import config, storage
from raysem.errors import DataError
from raysem.ontology.graph import Ontology, OntologyNode

FILE = "classes.parquet"


@dataclass(frozen=True, eq=False)
class TagClasses:
    """K classes in the order of a tagger's outputs."""

    names: tuple[str, ...]
    ids: tuple[str, ...]
    parents: tuple[tuple[str, ...], ...]
    """Names of each class's parents in the ontology."""
    distance_KK: np.ndarray
    """Edges of the shortest path between two classes, uint8."""
    text_KD: np.ndarray | None = None
    """Unit vectors of the classes' texts, float32."""
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> dict[str, int]:
        """The place of each name."""
        return {name: place for place, name in enumerate(self.names)}

    @property
    def digest(self) -> str:
        """Over everything, the vectors of the texts included."""
        content: dict[str, object] = {"names": self.names, "ids": self.ids, "parents": self.parents}
        content |= {"distances": _content_of(self.distance_KK), "texts": _content_of(self.text_KD)}
        return config.digest(content)

    def targets(self, labels: Sequence[Sequence[str]], *, where: str) -> np.ndarray:
        """uint8 (N, K): 1 where the clip has the class.

        Raises:
            DataError: a label is none of the classes.
        """
        found = np.zeros((len(labels), len(self)), np.uint8)
        for row, names in enumerate(labels):
            for name in names:
                found[row, self.place_of(name, where=where)] = 1
        return found

    def place_of(self, name: str, *, where: str) -> int:
        """The place of a class; DataError naming `where` when there is none of that name."""
        if name not in self.index:
            raise DataError(
                f"{where}: label {name!r} is none of the {len(self)} classes ({', '.join(self.names[:4])}, ...); other "
                "labels can be mapped with label_map"
            )
        return self.index[name]

    def write(self, folder: storage.Location) -> None:
        """Write `classes.parquet`, one row a class."""
        columns: dict[str, pa.Array] = {
            "name": pa.array(self.names),
            "id": pa.array(self.ids),
            "parents": pa.array(self.parents, pa.list_(pa.string())),
            "distances": _rows(self.distance_KK, pa.uint8()),
        }
        if self.text_KD is not None:
            columns |= {"text": pa.array(self.texts), "embedding": _rows(self.text_KD, pa.float32())}
        storage.write_table(storage.join(folder, FILE), pa.table(columns))

    @classmethod
    def read(cls, folder: storage.Location) -> TagClasses:
        """What `write` left in a folder."""
        table = storage.read_table(storage.join(folder, FILE))
        has_text = "embedding" in table.column_names
        return cls(
            tuple(table["name"].to_pylist()),
            tuple(table["id"].to_pylist()),
            tuple(tuple(parents) for parents in table["parents"].to_pylist()),
            _matrix(table, "distances"),
            _matrix(table, "embedding") if has_text else None,
            tuple(table["text"].to_pylist()) if has_text else (),
        )


def tag_classes(ontology: Ontology, classes: Sequence[OntologyNode]) -> TagClasses:
    """The classes without texts."""
    return TagClasses(
        tuple(node.name for node in classes),
        tuple(node.id for node in classes),
        tuple(tuple(ontology.nodes[parent].name for parent in node.parent_ids) for node in classes),
        ontology.distances.between([node.id for node in classes]).astype(np.uint8),
    )


def _content_of(values: np.ndarray | None) -> str:
    return "" if values is None else hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _rows(values: np.ndarray, kind: pa.DataType) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel(), kind), values.shape[1])


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    return table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
