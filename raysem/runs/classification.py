"""`train_semanticac`: corpora -> labels -> a classifier a fold -> score the fold -> results -> report, as stages."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from raysem import storage
from raysem.audio.load import AudioSettings
from raysem.config import plain
from raysem.curation.ray_shards import run_as_task
from raysem.curation.ray_stages import EmbedJob, embed_clips
from raysem.models.class_scorer import ClassifierSource
from raysem.runs import (
    classification_models,
    classification_preflight,
    classification_report,
    classification_scores,
    fold_labels,
    model_record,
    roles,
)
from raysem.runs.classification_folds import fold_sources, part_name, scores_name
from raysem.runs.classification_recipe import ClassificationRecipe, ClassifierTrainingSettings
from raysem.runs.cluster_training import train_on_cluster, trainings_at_once
from raysem.runs.corpus_stages import part_stages
from raysem.runs.launch import Job, connect_ray
from raysem.runs.published import finish, report_stage
from raysem.stages import Stage, in_order

TRAINING = "training"  # the group of stages that run side by side where the cluster has room


class Classification:
    """The stages of one recipe on one output. Building them reads nothing but the corpora's file lists."""

    def __init__(self, recipe: ClassificationRecipe, output: storage.Location):
        self.recipe, self.output = recipe, output
        self._settings = recipe.classifiers()

    @cached_property
    def stages(self) -> list[Stage]:
        """Every stage, in the order in which it can run."""
        return [*self._before_report, self.report]

    @cached_property
    def _before_report(self) -> list[Stage]:
        listed = [*self._corpora.values(), self.labels, self._tested]
        listed += [stage for by_fold in self.classifiers.values() for stage in by_fold.values()]
        listed += [stage for by_fold in self.scored.values() for stages in by_fold.values() for stage in stages]
        return in_order([*listed, self.scores])

    @cached_property
    def _corpora(self) -> dict[str, Stage]:
        recipe = self.recipe
        return part_stages(fold_sources(recipe), recipe.corpora, self.output, seed=recipe.seed)

    def _parts_of(self, fold: int) -> list[Stage]:
        """The clips of a fold: those of training first, then those that choose checkpoints."""
        names = [part_name(fold), *([part_name(fold, held_out=True)] if self.recipe.folds.held_out_share else [])]
        return [self._corpora[name] for name in names]

    @cached_property
    def labels(self) -> Stage:
        """The labels of all folds."""
        wanted = self.recipe.labels
        parts = {fold: self._parts_of(fold) for fold in self.recipe.folds.numbers}

        def run(folder: storage.Location) -> dict[str, Any]:
            folders = {fold: [stage.folder(self.output) for stage in stages] for fold, stages in parts.items()}
            return fold_labels.write(folder, folders, wanted)

        inputs = [stage for stages in parts.values() for stage in stages]
        return Stage(fold_labels.STAGE, run, settings={"labels": list(wanted)}, inputs=inputs, needs_cluster=False)

    @cached_property
    def _tested(self) -> Stage:
        """Nothing but the check of the folds that are tested; no other stage reads it."""
        tested = self.recipe.folds.tested

        def run(folder: storage.Location) -> dict[str, Any]:
            return fold_labels.check_tested(self.labels.folder(self.output), tested)

        return Stage(fold_labels.CHECK_STAGE, run, settings=list(tested), inputs=[self.labels], needs_cluster=False)

    @cached_property
    def classifiers(self) -> dict[str, dict[int, Stage]]:
        """By name and tested fold, the classifier trained on the other folds."""
        tested = self.recipe.folds.tested
        return {
            name: {fold: self._classifier(name, settings, fold) for fold in tested}
            for name, settings in self._settings.items()
        }

    def _classifier(self, name: str, settings: ClassifierTrainingSettings, fold: int) -> Stage:
        others = [other for other in self.recipe.folds.numbers if other != fold]
        parts = [self._corpora[part_name(other)] for other in others]
        held_out = [self._parts_of(other)[1] for other in others] if self.recipe.folds.held_out_share else []

        def run(folder: storage.Location) -> dict[str, Any]:
            def shards(stages: list[Stage]) -> list[storage.Location]:
                return [shard for stage in stages for shard in roles.clip_shards(stage.folder(self.output))]

            spec = classification_models.training_spec(
                f"{name}/fold{fold}",
                settings,
                output=folder,
                labels=fold_labels.read(self.labels.folder(self.output)),
                sources=shards(parts),
                held_out=shards(held_out),
                seed=self.recipe.seed,
                audio=self.recipe.audio,
            )
            return run_as_task(classification_models.finish, folder, train_on_cluster(spec, self.recipe.cluster))

        content = plain(settings) | {
            "training": settings.training.what_counts(),
            "seed": self.recipe.seed,
            "audio": plain(self.recipe.audio),
        }
        inputs = [self.labels, *parts, *held_out]
        return Stage(f"classifier/{name}/fold{fold}", run, settings=content, inputs=inputs, group=TRAINING)

    @cached_property
    def scored(self) -> dict[str, dict[int, list[Stage]]]:
        """By classifier and fold, the stages that score every clip of the fold, one for each of its parts."""
        return {
            name: {
                fold: [self._scored(name, part, stage) for part in self._parts_of(fold)]
                for fold, stage in by_fold.items()
            }
            for name, by_fold in self.classifiers.items()
        }

    def _scored(self, name: str, part: Stage, classifier: Stage) -> Stage:
        embed = self.recipe.evaluation.embed
        name = scores_name(name, part.name.removeprefix("corpora/"))

        def run(folder: storage.Location) -> dict[str, Any]:
            where = classifier.folder(self.output)
            about = model_record.about(where)
            job = EmbedJob(
                model=ClassifierSource(location=storage.join(where, "model")),
                output=folder,
                workers=self.recipe.cluster.embedding,
                audio=AudioSettings(**{**plain(self.recipe.audio), "sample_rate": about["sample_rate"]}),
                crop_samples=about["crop_samples"],
                embed=embed,
                stage=name,
                metadata={
                    "model": about["fingerprint"],
                    "num_crops": str(embed.num_crops),
                    "classes": json.dumps(fold_labels.read(self.labels.folder(self.output))),
                },
            )
            return embed_clips(roles.clip_shards(part.folder(self.output)), job)

        covered = {key: value for key, value in plain(embed).items() if key != "max_failed_share"}
        settings = {"embed": covered, "audio": plain(self.recipe.audio)}
        return Stage(name, run, settings=settings, inputs=[part, classifier])

    @cached_property
    def scores(self) -> Stage:
        """Accuracy over the folds, differences and confusions of every classifier."""
        recipe = self.recipe
        baseline = recipe.baseline

        def run(folder: storage.Location) -> dict[str, Any]:
            return run_as_task(
                classification_scores.score,
                folder,
                self.labels.folder(self.output),
                {fold: [stage.folder(self.output) for stage in self._parts_of(fold)] for fold in recipe.folds.tested},
                {
                    name: {fold: [stage.folder(self.output) for stage in stages] for fold, stages in by_fold.items()}
                    for name, by_fold in self.scored.items()
                },
                baseline,
                recipe.evaluation.metrics,
                recipe.seed,
            )

        stages = [stage for by_fold in self.scored.values() for stages in by_fold.values() for stage in stages]
        content = {"metrics": plain(recipe.evaluation.metrics), "baseline": baseline, "seed": recipe.seed}
        return Stage(classification_scores.STAGE, run, settings=content, inputs=[self.labels, *stages])

    @cached_property
    def report(self) -> Stage:
        """`summary.json` and `report/index.html`."""
        return report_stage(self.recipe, self.output, self._before_report, classification_report.write)


def stages(recipe: ClassificationRecipe, output: storage.Location) -> list[Stage]:
    """The stages of a recipe."""
    return Classification(recipe, output).stages


JOB: Job[ClassificationRecipe] = Job(
    name="train_semanticac",
    about="Audio classifiers by label prompts, SemanticAC, in a cross-validation, and a report about them.",
    recipe_type=ClassificationRecipe,
    default_recipe="semanticac_quickstart.yaml",
    default_output=str(Path("runs") / "semanticac_quickstart"),
    stages=stages,
    preflight=classification_preflight.check,
    check_resources=classification_preflight.check_resources,
    finish=finish,
    connect=lambda recipe: connect_ray(recipe.cluster),
    at_once=lambda recipe: trainings_at_once(recipe.cluster),
    store=lambda recipe: recipe.cluster.storage,
)
