"""Where the ontology comes from: the user's copy of it. raysem carries none and fetches none."""

from __future__ import annotations

import os

from raysem import storage
from raysem.config import Settings
from raysem.errors import ConfigError, DataError
from raysem.ontology.csv_rows import csv_rows
from raysem.ontology.graph import Ontology, OntologyNode, read_ontology

VARIABLE = "RAYSEM_ONTOLOGY"
ONTOLOGY_FILE = "ontology.json"
CLASSES_FILE = "class_labels_indices.csv"


class OntologySettings(Settings):
    """Which ontology, and which of its nodes are the classes of a tagger."""

    file: str = ""
    """`ontology.json`, or a folder that holds it. Empty: what the environment variable RAYSEM_ONTOLOGY names."""
    classes: str = ""
    """`class_labels_indices.csv`: index, mid, display_name. Empty: the one beside the ontology if there is one, else
    every node without restrictions, in the order of the ontology."""


def find_ontology(settings: OntologySettings | None = None, *, key: str = "ontology.file") -> str:
    """The location of the ontology's file.

    Args:
        key: dotted key of the setting, for the message.

    Raises:
        ConfigError: nobody says where it is, or it is not there.
    """
    given = settings.file if settings else ""
    named = given or os.environ.get(VARIABLE, "")
    if not named:
        raise ConfigError(
            f"{key}: no ontology is given. AudioSet's ontology.json (632 classes, CC BY-SA 4.0) is published in the "
            f"repository github.com/audioset/ontology; name a copy of it here, with --ontology or in {VARIABLE}"
        )
    location = storage.absolute(named)
    if storage.is_folder(location):
        location = storage.join(location, ONTOLOGY_FILE)
    if not storage.exists(location):
        raise ConfigError(f"{key if given else VARIABLE}: no such file: {location}")
    return location


def load_ontology(settings: OntologySettings | None = None, *, key: str = "ontology.file") -> Ontology:
    """The ontology that the settings or the environment name."""
    return read_ontology(find_ontology(settings, key=key))


def load_classes(
    ontology: Ontology, settings: OntologySettings | None = None, *, key: str = "ontology.file"
) -> tuple[OntologyNode, ...]:
    """The classes of a tagger in their order: AudioSet's 527 of 632 nodes, say. See `OntologySettings.classes`."""
    if settings and settings.classes:
        return read_classes(storage.absolute(settings.classes), ontology)
    beside = storage.join(storage.parent_of(find_ontology(settings, key=key)), CLASSES_FILE)
    if storage.exists(beside):
        return read_classes(beside, ontology)
    return tuple(node for node in ontology.nodes.values() if not node.restrictions)


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
