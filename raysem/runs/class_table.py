"""The stage that fixes the classes of a run: their order, parents, distances and, for SPA, vectors of their texts."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from raysem import config, storage
from raysem.config import plain
from raysem.evaluation.label_texts import embed_class_texts
from raysem.ontology.class_texts import class_texts
from raysem.ontology.distances import mean_distance
from raysem.ontology.graph import Ontology, OntologyNode
from raysem.ontology.source import load_classes, load_ontology
from raysem.ontology.tag_classes import tag_classes
from raysem.runs.tagging_recipe import ClassSettings
from raysem.stages import Stage

NAME = "classes"


def class_stage(settings: ClassSettings, *, with_texts: bool) -> Stage:
    """Writes `TagClasses`. Without SPA no text is embedded, and no text encoder is needed.

    The digest covers the classes, their distances and their texts as they are read now, wherever they come from.

    Raises:
        UserError: the ontology, the list of classes or the table of texts is not there, or is wrong.
    """
    ontology, nodes = _classes(settings)
    classes = tag_classes(ontology, nodes)
    content: dict[str, Any] = {
        "ids": classes.ids,
        "names": classes.names,
        "parents": classes.parents,
        "distances": hashlib.sha256(classes.distance_KK.tobytes()).hexdigest(),
    }
    if with_texts:
        words = class_texts(nodes, settings.texts, key="classes.texts")
        content |= {"texts": words, "encoder": plain(settings.encoder)}

    def run(folder: storage.Location) -> dict[str, Any]:
        return write_classes(folder, settings, with_texts=with_texts)

    return Stage(NAME, run, settings={"content": config.digest(content), "classes": len(classes)}, needs_cluster=False)


def _classes(settings: ClassSettings) -> tuple[Ontology, tuple[OntologyNode, ...]]:
    ontology = load_ontology(settings.ontology, key="classes.ontology.file")
    return ontology, load_classes(ontology, settings.ontology, key="classes.ontology.file")


def write_classes(folder: storage.Location, settings: ClassSettings, *, with_texts: bool) -> dict[str, Any]:
    """Write the classes below `folder`; returns the stage's summary."""
    ontology, nodes = _classes(settings)
    classes = tag_classes(ontology, nodes)
    summary: dict[str, Any] = {
        "classes": len(classes),
        "mean_distance": mean_distance(classes.distance_KK),
        "longest_distance": int(classes.distance_KK.max()),
    }
    if with_texts:
        found = embed_class_texts(
            ontology,
            nodes,
            settings.texts,
            settings.encoder,
            key="classes.texts",
            encoder_key="classes.encoder.name",
        )
        classes = replace(classes, texts=found.table.texts, text_KD=np.asarray(found.table.text_KD, np.float32))
        summary["texts"] = {
            "source": settings.texts.source,
            "encoder": settings.encoder.name,
            "digest": found.table.digest,
            "rank_correlation": found.rank_correlation,
        }
    classes.write(folder)
    return summary
