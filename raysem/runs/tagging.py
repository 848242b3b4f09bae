"""`train_spa`: corpora -> classes -> taggers -> score -> evaluate -> report, as stages."""

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
from raysem.models.tag_scorer import TaggerSource
from raysem.ontology.tag_classes import TagClasses
from raysem.runs import model_record, roles, tagging_models, tagging_preflight, tagging_report, tagging_scores
from raysem.runs.class_table import class_stage, class_text_stage
from raysem.runs.cluster_training import train_on_cluster
from raysem.runs.corpus_stages import part_stages
from raysem.runs.launch import Job, connect_ray
from raysem.runs.published import finish, report_stage
from raysem.runs.tagging_recipe import TaggerTrainingSettings, TaggingRecipe
from raysem.stages import Stage, in_order


class Tagging:
    """The stages of one recipe on one output. Building them reads nothing but the corpora's file lists."""

    def __init__(self, recipe: TaggingRecipe, output: storage.Location):
        self.recipe, self.output = recipe, output
        self._settings = recipe.taggers()

    @cached_property
    def stages(self) -> list[Stage]:
        """Every stage, in the order in which it can run."""
        return [*self._before_report, self.report]

    @cached_property
    def _before_report(self) -> list[Stage]:
        aligned = any(settings.objective.spa_weight > 0 for settings in self._settings.values())
        listed = [*self._corpora.values(), self.classes, *([self.class_texts] if aligned else [])]
        listed += self.taggers.values()
        listed += [stage for by_tagger in self.scored.values() for stage in by_tagger.values()]
        return in_order([*listed, *([self.scores] if self.scores else [])])

    @cached_property
    def _corpora(self) -> dict[str, Stage]:
        corpora = self.recipe.corpora
        parts = {"train": corpora.train, "held_out": corpora.held_out}
        return part_stages(parts, corpora, self.output, seed=self.recipe.seed)

    @cached_property
    def _evaluation(self) -> dict[str, Stage]:
        """The corpus of each evaluation set."""
        return {name: self._corpora[f"evaluation/{name}"] for name in self.recipe.corpora.evaluation}

    @cached_property
    def classes(self) -> Stage:
        """The classes without their texts."""
        return class_stage(self.recipe.classes)

    @cached_property
    def class_texts(self) -> Stage:
        """The classes with their texts, for the taggers that are pulled towards them."""
        return class_text_stage(self.recipe.classes, self.classes)

    @cached_property
    def taggers(self) -> dict[str, Stage]:
        """The trained taggers by name."""
        return {name: self._tagger(name, settings) for name, settings in self._settings.items()}

    def _tagger(self, name: str, settings: TaggerTrainingSettings) -> Stage:
        classes = self.class_texts if settings.objective.spa_weight > 0 else self.classes
        watched = self._evaluation if self.recipe.evaluation.watch else {}
        held_out = self._corpora.get("held_out")

        def run(folder: storage.Location) -> dict[str, Any]:
            def shards(stage: Stage) -> tuple[storage.Location, ...]:
                return tuple(roles.clip_shards(stage.folder(self.output)))

            spec = tagging_models.training_spec(
                name,
                settings,
                output=folder,
                classes=classes.folder(self.output),
                sources=shards(self._corpora["train"]),
                held_out=shards(held_out) if held_out else (),
                watched={set_name: shards(stage) for set_name, stage in watched.items()},
                seed=self.recipe.seed,
                audio=self.recipe.audio,
            )
            return run_as_task(tagging_models.finish, folder, train_on_cluster(spec, self.recipe.cluster))

        inputs = [classes, self._corpora["train"], *([held_out] if held_out else []), *watched.values()]
        content = plain(settings) | {
            "training": settings.training.what_counts(),
            "seed": self.recipe.seed,
            "audio": plain(self.recipe.audio),
        }
        return Stage(f"tagger/{name}", run, settings=content, inputs=inputs)

    @cached_property
    def scored(self) -> dict[str, dict[str, Stage]]:
        """By evaluation set and tagger, the stage that scores every clip."""
        return {
            set_name: {name: self._scored(set_name, name, tagger) for name, tagger in self.taggers.items()}
            for set_name in self._evaluation
        }

    def _scored(self, set_name: str, name: str, tagger: Stage) -> Stage:
        corpus, embed = self._evaluation[set_name], self.recipe.evaluation.embed

        def run(folder: storage.Location) -> dict[str, Any]:
            where = tagger.folder(self.output)
            about = model_record.about(where)
            names = TagClasses.read(self.classes.folder(self.output)).names
            audio = AudioSettings(**{**plain(self.recipe.audio), "sample_rate": about["sample_rate"]})
            job = EmbedJob(
                model=TaggerSource(location=storage.join(where, "model")),
                output=folder,
                workers=self.recipe.cluster.embedding,
                audio=audio,
                crop_samples=about["crop_samples"],
                embed=embed,
                stage=f"evaluate/{set_name}/{name}",
                metadata={
                    "model": about["fingerprint"],
                    "num_crops": str(embed.num_crops),
                    "classes": json.dumps(names),  # a table of scores that says what they are (`raysem listen build`)
                },
            )
            return embed_clips(roles.clip_shards(corpus.folder(self.output)), job)

        covered = {key: value for key, value in plain(embed).items() if key != "max_failed_share"}
        settings = {"embed": covered, "audio": plain(self.recipe.audio)}
        return Stage(f"evaluate/{set_name}/{name}", run, settings=settings, inputs=[corpus, tagger])

    @cached_property
    def scores(self) -> Stage | None:
        """mAP, OmAP and the mistakes of every tagger, side by side."""
        if not self._evaluation:
            return None
        recipe = self.recipe
        baseline = recipe.baseline

        def run(folder: storage.Location) -> dict[str, Any]:
            return run_as_task(
                tagging_scores.score,
                folder,
                self.classes.folder(self.output),
                {name: stage.folder(self.output) for name, stage in self._evaluation.items()},
                {
                    set_name: {name: stage.folder(self.output) for name, stage in by_tagger.items()}
                    for set_name, by_tagger in self.scored.items()
                },
                baseline,
                recipe.evaluation.metrics,
                recipe.seed,
            )

        stages = [stage for by_tagger in self.scored.values() for stage in by_tagger.values()]
        content = {"metrics": plain(recipe.evaluation.metrics), "baseline": baseline, "seed": recipe.seed}
        inputs = [self.classes, *self._evaluation.values(), *stages]
        return Stage(tagging_scores.STAGE, run, settings=content, inputs=inputs)

    @cached_property
    def report(self) -> Stage:
        """`summary.json` and `report/index.html`."""
        return report_stage(self.recipe, self.output, self._before_report, tagging_report.write)


def stages(recipe: TaggingRecipe, output: storage.Location) -> list[Stage]:
    """The stages of a recipe."""
    return Tagging(recipe, output).stages


JOB: Job[TaggingRecipe] = Job(
    name="train_spa",
    about="Audio taggers trained one-hot, with OBCE or with SPA, measured by OmAP, and a report about them.",
    recipe_type=TaggingRecipe,
    default_recipe="spa_quickstart.yaml",
    default_output=str(Path("runs") / "spa_quickstart"),
    stages=stages,
    preflight=tagging_preflight.check,
    check_resources=tagging_preflight.check_resources,
    finish=finish,
    connect=lambda recipe: connect_ray(recipe.cluster),
    store=lambda recipe: recipe.cluster.storage,
)
