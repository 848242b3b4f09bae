"""The recipe of `train_semanticac`: one typed, frozen tree, and the variants that change parts of it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from raysem.audio.augment import AugmentSettings
from raysem.audio.load import AudioSettings
from raysem.config import Settings
from raysem.curation.ray_stages import EmbedSettings
from raysem.evaluation.classification import ClassificationSettings
from raysem.models.classifier_settings import ClassifierSettings
from raysem.runs.cluster import ClusterSettings
from raysem.runs.part_settings import PartSettings
from raysem.runs.roles import CorpusSource
from raysem.runs.variants import Overrides, baseline_of, check_variants, variant_recipes
from raysem.training.classifier_objective import ClassifierObjectiveSettings
from raysem.training.settings import TrainingSettings


class ClassificationCorporaSettings(PartSettings):
    """Clips with one label each; the folds are cut from them, and are the test sets."""

    own_parts: ClassVar[tuple[str, ...]] = ("clips",)
    taken_names: ClassVar[tuple[str, ...]] = ("clips",)

    clips: tuple[CorpusSource, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_no_other_test_sets(self) -> ClassificationCorporaSettings:
        if self.evaluation:
            raise ValueError(
                "evaluation: has no meaning here: each fold is the test set of a model trained on the rest"
            )
        if any(source.folds for source in self.clips):
            raise ValueError("clips.folds: the folds are chosen by the section folds of the recipe")
        return self


class FoldSettings(Settings):
    """A cross-validation: every fold is tested once, by a model trained on the others."""

    official: tuple[PositiveInt, ...] = ()
    """The corpus's own folds, by number: 1 to 5 of ESC-50, 1 to 10 of UrbanSound8K."""
    drawn: NonNegativeInt = 0
    """In place of these: so many folds drawn by (seed, clip or group; see `group_pattern` of a source)."""
    test: tuple[PositiveInt, ...] = ()
    """Test only these; empty: all."""
    held_out_share: float = Field(0.0, ge=0, lt=1)
    """Share of each training fold by which the best step is chosen, drawn by (seed, clip or group). 0: the last step
    is kept. A test fold never chooses."""

    @model_validator(mode="after")
    def _has_folds(self) -> FoldSettings:
        if bool(self.official) == bool(self.drawn):
            raise ValueError("give either official folds or a number of drawn ones")
        if len(set(self.official)) != len(self.official):
            raise ValueError(f"official: a fold is named twice in {list(self.official)}")
        if len(self.numbers) < 2:
            raise ValueError("a cross-validation has at least 2 folds")
        unknown = sorted(set(self.test) - set(self.numbers))
        if unknown:
            raise ValueError(f"test: no fold {unknown[0]}; there are {list(self.numbers)}")
        return self

    @property
    def numbers(self) -> tuple[int, ...]:
        """Every fold."""
        return self.official or tuple(range(1, self.drawn + 1))

    @property
    def tested(self) -> tuple[int, ...]:
        """The folds that are tested, in order."""
        return tuple(number for number in self.numbers if not self.test or number in self.test)


class ClassifierTrainingSettings(Settings):
    """One classifier: what it is, what it is trained for, and how."""

    model: ClassifierSettings = ClassifierSettings()
    objective: ClassifierObjectiveSettings = ClassifierObjectiveSettings()
    augmentation: AugmentSettings = AugmentSettings()
    epochs: PositiveInt | None = None
    """In place of `training.steps`: times that each clip is seen. An exponential schedule then decays once in each."""
    training: TrainingSettings = TrainingSettings(selection_metric="accuracy")

    @field_validator("training", mode="before")
    @classmethod
    def _is_chosen_by_accuracy(cls, training: Any) -> Any:
        """A section `training` that does not say how to choose chooses as one that is left out."""
        return {"selection_metric": "accuracy", **training} if isinstance(training, dict) else training


class ClassificationEvaluationSettings(Settings):
    """How the final models are scored on the folds that they have not seen."""

    embed: EmbedSettings = EmbedSettings(num_crops=1)
    metrics: ClassificationSettings = ClassificationSettings()
    baseline: str = ""
    """The classifier that the others are compared with; empty: the first one."""


class ClassificationReportSettings(Settings):
    """What the report shows."""

    title: str = "Classification run"
    clips_per_confusion: PositiveInt = 2
    """Clips to listen to for each of the most confused pairs of labels."""


class ClassificationRecipe(Settings):
    """Classifiers by prompts, or without text, in a cross-validation, and a report about them."""

    seed: int = Field(0, ge=0)
    corpora: ClassificationCorporaSettings
    folds: FoldSettings
    labels: tuple[str, ...] = ()
    """The labels in the order of the outputs; empty: every label of the clips, sorted."""
    audio: AudioSettings = AudioSettings()
    """Limits and checks; the sample rate is the model's own."""
    classifier: ClassifierTrainingSettings = ClassifierTrainingSettings()
    evaluation: ClassificationEvaluationSettings = ClassificationEvaluationSettings()
    cluster: ClusterSettings = ClusterSettings()
    report: ClassificationReportSettings = ClassificationReportSettings()
    variants: dict[str, Overrides] = Field(default_factory=dict)
    """Classifiers by name, each a set of dotted `classifier.*` keys over this recipe; empty: one `classifier`."""

    @field_validator("labels")
    @classmethod
    def _are_several(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((label for place, label in enumerate(labels) if label in labels[:place]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice")
        if len(labels) == 1:
            raise ValueError(f"classification needs at least 2 labels, there is {labels[0]!r} alone")
        return labels

    @field_validator("variants")
    @classmethod
    def _touches_only_the_classifier(cls, variants: dict[str, Overrides]) -> dict[str, Overrides]:
        check_variants(variants, lambda key: key.startswith("classifier."), "classifier.*")
        return variants

    def classifiers(self) -> dict[str, ClassifierTrainingSettings]:
        """The settings of each classifier, with its variant's overrides applied."""
        recipes = variant_recipes(self, self.variants, alone="classifier")
        return {name: recipe.classifier for name, recipe in recipes.items()}

    def key_of(self, name: str) -> str:
        """The dotted key under which a classifier's settings were changed, for messages."""
        return f"variants.{name}.classifier" if self.variants else "classifier"

    @property
    def baseline(self) -> str:
        """The classifier that the others are compared with.

        Raises:
            ConfigError: there is none of that name.
        """
        return baseline_of(self.evaluation.baseline, self.variants, alone="classifier")
