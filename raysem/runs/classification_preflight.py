"""Checks of `train_semanticac` on the driver, before Ray."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from raysem import storage
from raysem.errors import ConfigError, UserError
from raysem.runs import fold_labels
from raysem.runs.classification_recipe import ClassificationRecipe
from raysem.runs.cluster import check_workers
from raysem.runs.preflight import check_batches, check_output, check_roots, check_starts
from raysem.runs.resource_estimate import Training, Work, estimate
from raysem.runs.resource_facts import MIB, bytes_of, machine_of
from raysem.stages import Stage, done_record
from raysem.text.prompts import label_prompts

log = logging.getLogger(__name__)


def check(recipe: ClassificationRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Raise for what cannot work, return warnings for what may not.

    Raises:
        UserError: a path that is not there, a disk that is full, a setting that cannot be met.
    """
    warnings = check_output(output)
    check_roots(recipe.corpora)
    classifiers = {recipe.key_of(name): settings for name, settings in recipe.classifiers().items()}
    for key, settings in classifiers.items():
        if settings.training.schedule.kind == "plateau" and not recipe.folds.held_out_share:
            raise ConfigError(
                f"{key}.training.schedule.kind: plateau is seen on held-out clips; give folds.held_out_share"
            )
        if settings.training.selection_metric != "accuracy":
            raise ConfigError(
                f"{key}.training.selection_metric: {settings.training.selection_metric} is not measured on classes; "
                "take accuracy"
            )
    check_starts({key: settings.model.start for key, settings in classifiers.items()})
    check_batches({key: settings.training for key, settings in classifiers.items()}, recipe.cluster)
    _ = recipe.baseline
    if recipe.labels:
        check_prompts(recipe, recipe.labels)
    if all(done_record(stage, output) is not None for stage in chosen):
        return []
    check_workers(recipe.cluster)
    return warnings


def check_prompts(recipe: ClassificationRecipe, labels: Sequence[str]) -> None:
    """ConfigError where two labels cannot be told apart by a classifier's prompts."""
    for name, settings in recipe.classifiers().items():
        model = settings.model
        if model.similarity is not None:
            key = f"{recipe.key_of(name)}.model"
            unknown = sorted(set(model.label_words) - set(labels))
            if unknown:
                raise ConfigError(f"{key}.label_words: no label {unknown[0]!r}; there are {', '.join(labels[:10])}")
            label_prompts(labels, model.prompts.templates, key=f"{key}.prompts.templates", words=model.label_words)


def check_resources(recipe: ClassificationRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[str]:
    """Check the prompts and estimate what training is left to do, once the corpora are read; returns warnings.

    Raises:
        UserError: two labels share a prompt, or the work cannot fit; the message begins with what to change.
    """
    labels = next((stage for stage in chosen if stage.name == fold_labels.STAGE), None)
    if labels is not None:
        check_prompts(recipe, fold_labels.read(labels.folder(output)))
    found = estimate(Work.of_trainings(_trainings(recipe, output, chosen)), machine_of(recipe.cluster, output))
    if found.refusals:
        raise UserError("; ".join(found.refusals))
    for line in found.lines:
        log.info("estimate, %s", line)
    return found.warnings


def _trainings(recipe: ClassificationRecipe, output: storage.Location, chosen: Sequence[Stage]) -> list[Training]:
    """The classifiers that are left to train."""
    classifiers, found = recipe.classifiers(), []
    for stage in chosen:
        kind, _, rest = stage.name.partition("/")
        if kind != "classifier" or done_record(stage, output) is not None:
            continue
        name = rest.rpartition("/")[0]
        settings, parts = classifiers[name], [part for part in stage.inputs if part.name.startswith("corpora/")]
        design, training = settings.model.design, settings.training
        found.append(
            Training(
                name=recipe.key_of(name),
                workers=recipe.cluster.training_workers,
                clips=sum((done_record(part, output) or {"summary": {}})["summary"].get("clips", 0) for part in parts),
                crop_samples=round(design.crop_seconds * design.front_end.sample_rate),
                cache_bytes=training.cache_mib * MIB,
                table_bytes=sum(min(training.table_memory_mib * MIB, bytes_of(part, output)) for part in parts),
            )
        )
    return found
