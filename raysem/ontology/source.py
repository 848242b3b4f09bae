"""Where the ontology comes from: the user's copy of AudioSet's, or the small part of it that raysem carries."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from pydantic import field_validator

from raysem import storage
from raysem.config import Settings
from raysem.errors import ConfigError, DataError
from raysem.ontology.csv_rows import csv_rows
from raysem.ontology.embedded import ONTOLOGIES, embedded_ontology, label_map_file
from raysem.ontology.graph import Ontology, OntologyNode, read_ontology

VARIABLE = "RAYSEM_ONTOLOGY"
ONTOLOGY_FILE = "ontology.json"
CLASSES_FILE = "class_labels_indices.csv"
LABEL_MAP = "label_map:"


class OntologySettings(Settings):
    """Which ontology, and which of its nodes are the classes of a tagger."""

    file: str = ""
    """`ontology.json`, or a folder that holds it; or `synthetic`, the part of AudioSet's graph that raysem carries for
    its synthetic corpus (a folder of that name is `./synthetic`). Empty: what the environment variable RAYSEM_ONTOLOGY
    names, in the same words."""
    classes: str | tuple[str, ...] = ""
    """The classes in their order; their distances are those of the whole ontology, however few they are. One of:
    `class_labels_indices.csv` (index, mid, display_name); `label_map:` and a label map, by name or path, for the
    classes that it names (`label_map:esc50_audioset`); a list of names or ids. Empty: the csv beside the ontology if
    there is one, else every node without restrictions, in the order of the ontology; for `synthetic` the classes of the
    synthetic corpus."""

    @field_validator("classes", mode="before")
    @classmethod
    def _is_a_text_or_texts(cls, asked: Any) -> Any:
        names = [asked] if isinstance(asked, str) else asked
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"expected a file, {LABEL_MAP}NAME or a list of names, got {asked!r}")
        return asked


def find_ontology(settings: OntologySettings | None = None, *, key: str = "ontology.file") -> str:
    """The location of the ontology's file.

    Args:
        key: dotted key of the setting, for the message.

    Raises:
        ConfigError: nobody says where it is, or it is not there.
    """
    named = _named(settings)
    if not named:
        raise ConfigError(
            f"{key}: no ontology is given. AudioSet's ontology.json (632 classes, CC BY-SA 4.0) is published in the "
            f"repository github.com/audioset/ontology; name a copy of it here, with --ontology or in {VARIABLE}, or "
            f"say {' or '.join(ONTOLOGIES)}, a part of it that raysem carries"
        )
    if named in ONTOLOGIES:
        return embedded_ontology(named)
    location = storage.absolute(named)
    if storage.is_folder(location):
        location = storage.join(location, ONTOLOGY_FILE)
    if not storage.exists(location):
        raise ConfigError(f"{key if settings and settings.file else VARIABLE}: no such file: {location}")
    return location


def load_ontology(settings: OntologySettings | None = None, *, key: str = "ontology.file") -> Ontology:
    """The ontology that the settings or the environment name."""
    return read_ontology(find_ontology(settings, key=key))


def load_classes(
    ontology: Ontology, settings: OntologySettings | None = None, *, key: str = "ontology.file"
) -> tuple[OntologyNode, ...]:
    """The classes of a tagger in their order: AudioSet's 527 of 632 nodes, say. See `OntologySettings.classes`.

    Raises:
        ConfigError: no such label map.
        DataError: a class is listed twice or is not in the ontology, or the file is wrong in another way.
    """
    asked = settings.classes if settings else ""
    if asked == "" and _named(settings) in ONTOLOGIES:
        asked = LABEL_MAP + ONTOLOGIES[_named(settings)]
    if isinstance(asked, tuple):
        return named_classes(asked, ontology, "classes")
    if asked.startswith(LABEL_MAP):
        location = label_map_file(asked.removeprefix(LABEL_MAP))
        names = dict.fromkeys(row["class"] for _, row in csv_rows(location, ("class",)))
        classes = named_classes(names, ontology, location)
        for name, node in zip(names, classes, strict=True):
            if name != node.name:  # labels are mapped to this very text, and classes go by their names
                raise DataError(f"{location}: class {name!r} is written {node.name!r} in the ontology")
        return classes
    if asked:
        return read_classes(storage.absolute(asked), ontology)
    beside = storage.join(storage.parent_of(find_ontology(settings, key=key)), CLASSES_FILE)
    if storage.exists(beside):
        return read_classes(beside, ontology)
    return tuple(node for node in ontology.nodes.values() if not node.restrictions)


def named_classes(names: Iterable[str], ontology: Ontology, where: str) -> tuple[OntologyNode, ...]:
    """The nodes with these names or ids, in their order.

    Args:
        where: what lists them, for messages.

    Raises:
        DataError: one is not in the ontology, or two are the same node; none is listed.
    """
    classes: dict[str, OntologyNode] = {}
    for name in names:
        try:
            node = ontology.find(name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if node.id in classes:
            raise DataError(f"{where}: {name!r} is listed twice")
        classes[node.id] = node
    if not classes:
        raise DataError(f"{where}: lists no class")
    return tuple(classes.values())


def read_classes(location: str, ontology: Ontology) -> tuple[OntologyNode, ...]:
    """The nodes that a csv with the columns index, mid and display_name lists.

    Raises:
        DataError: the indices are not 0, 1, 2, ...; a class is listed twice or is not in the ontology; a name differs.
    """
    classes: dict[str, OntologyNode] = {}
    for place, row in csv_rows(location, ("index", "mid", "display_name")):
        mid, name = row["mid"], row["display_name"]
        if row["index"] != str(len(classes)):
            raise DataError(f"{place}: index is {row['index']!r}, expected {len(classes)}")
        if mid not in ontology.nodes:
            raise DataError(f"{place}: {mid!r} ({name}) is not in the ontology")
        if mid in classes:
            raise DataError(f"{place}: {mid!r} was listed before")
        if name != ontology.nodes[mid].name:
            raise DataError(f"{place}: {mid!r} is {name!r} here and {ontology.nodes[mid].name!r} in the ontology")
        classes[mid] = ontology.nodes[mid]
    if not classes:
        raise DataError(f"{location}: lists no class")
    return tuple(classes.values())


def _named(settings: OntologySettings | None) -> str:
    """What the settings, or else the environment, say."""
    return (settings.file if settings else "") or os.environ.get(VARIABLE, "")
