"""The stages that fix the classes of a run: their order, parents, distances; and for SPA the vectors of their texts."""

from __future__ import annotations

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

CLASSES, CLASS_TEXTS = "classes", "class_texts"


def class_stage(settings: ClassSettings) -> Stage:
    """Writes `TagClasses` without texts.

    The digest covers the classes and their distances as they are read now, wherever they come from.

    Raises:
        UserError: the ontology or the list of classes is not there, or is wrong.
    """
    classes = tag_classes(*_classes(settings))

    def run(folder: storage.Location) -> dict[str, Any]:
        classes.write(folder)
        return {
            "classes": len(classes),
            "mean_distance": mean_distance(classes.distance_KK),
            "longest_distance": int(classes.distance_KK.max()),
        }

    return Stage(CLASSES, run, settings={"content": classes.digest, "classes": len(classes)}, needs_cluster=False)


def class_text_stage(settings: ClassSettings, classes: Stage) -> Stage:
    """Writes the same `TagClasses` with texts. Only SPA needs it, and a text encoder.

    Raises:
        UserError: a class has no text.
    """
    ontology, nodes = _classes(settings)
    words = class_texts(nodes, settings.texts, key="classes.texts")

    def run(folder: storage.Location) -> dict[str, Any]:
        found = embed_class_texts(
            ontology, nodes, settings.texts, settings.encoder, key="classes.texts", encoder_key="classes.encoder.name"
        )
        table = found.table
        with_texts = replace(
            tag_classes(ontology, nodes), texts=table.texts, text_KD=np.asarray(table.text_KD, np.float32)
        )
        with_texts.write(folder)
        return {
            "source": settings.texts.source,
            "encoder": settings.encoder.name,
            "digest": table.digest,
            "rank_correlation": found.rank_correlation,
        }

    content = {"texts": config.digest(words), "encoder": plain(settings.encoder)}
    return Stage(CLASS_TEXTS, run, settings=content, inputs=[classes], needs_cluster=False)


def _classes(settings: ClassSettings) -> tuple[Ontology, tuple[OntologyNode, ...]]:
    ontology = load_ontology(settings.ontology, key="classes.ontology.file")
    return ontology, load_classes(ontology, settings.ontology, key="classes.ontology.file")
