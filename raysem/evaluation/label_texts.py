"""The texts of an ontology's classes as vectors, and how far their similarity follows the ontology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysem import storage
from raysem.metrics.rank_correlation import pair_rank_correlation
from raysem.ontology.class_texts import ClassTextSettings, class_texts
from raysem.ontology.graph import Ontology, OntologyNode
from raysem.ontology.source import OntologySettings, load_classes, load_ontology
from raysem.text.encoder import TextEncoderSettings
from raysem.text.label_table import LabelTable, label_table

# Shapes: K classes.


@dataclass(frozen=True)
class LabelTexts:
    """The text table of the classes beside their distances."""

    classes: tuple[OntologyNode, ...]
    table: LabelTable
    distance_KK: np.ndarray

    @property
    def rank_correlation(self) -> float:
        """Spearman's rho of similarity and distance over pairs of classes; -1 if nearer classes have nearer texts."""
        return pair_rank_correlation(self.table.similarity, self.distance_KK)

    def neighbours(self, node: OntologyNode, count: int) -> list[dict]:
        """The classes with the nearest texts: name, similarity, distance in the ontology."""
        place = {name: index for index, name in enumerate(self.table.names)}
        distance_K = self.distance_KK[place[node.name]]
        return [
            {"name": near.name, "similarity": near.similarity, "distance": int(distance_K[place[near.name]])}
            for near in self.table.neighbours(node.name, count)
        ]


def embed_class_texts(
    ontology: Ontology,
    classes: Sequence[OntologyNode],
    texts: ClassTextSettings | None = None,
    encoder: TextEncoderSettings | None = None,
    *,
    cache: storage.Location | None = None,
    key: str = "class_texts",
    encoder_key: str = "text.name",
) -> LabelTexts:
    """The table of the classes' texts under a frozen encoder, from the cache where it was made before.

    Args:
        cache: folder of tables; None: nothing is kept.
        key, encoder_key: dotted keys of the settings and of the encoder's name, for messages.
    """
    words = class_texts(classes, texts, key=key)
    table = label_table([node.name for node in classes], words, encoder, cache=cache, key=encoder_key)
    return LabelTexts(tuple(classes), table, ontology.distances.between([node.id for node in classes]))


def text_neighbourhood(
    name: str,
    settings: OntologySettings,
    *,
    texts: str = "description",
    encoder: TextEncoderSettings | None = None,
    cache: storage.Location | None = None,
    count: int = 10,
) -> dict:
    """What `raysem text neighbours` shows, as JSON values.

    Args:
        texts: description, name or prompt, or else the location of a csv with the user's descriptions.
    """
    ontology = load_ontology(settings, key="--ontology")
    node, classes = ontology.find(name), load_classes(ontology, settings, key="--ontology")
    if node not in classes:  # a heading such as "Human voice" can be asked for too
        classes = (*classes, node)
    source = {"source": texts} if texts in ("description", "name", "prompt") else {"source": "table", "table": texts}
    found = embed_class_texts(
        ontology,
        classes,
        ClassTextSettings.model_validate(source),
        encoder,
        cache=cache,
        key="--texts",
        encoder_key="--encoder",
    )
    return {
        "name": node.name,
        "text": found.table.texts[classes.index(node)],
        "neighbours": found.neighbours(node, count),
        "classes": len(classes),
        "rank_correlation": found.rank_correlation,
    }
