"""The recipe of `train_spa`: one typed, frozen tree, and the variants that change parts of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from raysem.audio.augment import AugmentSettings
from raysem.audio.load import AudioSettings
from raysem.config import Settings
from raysem.curation.ray_stages import EmbedSettings
from raysem.evaluation.tagging import TaggingSettings
from raysem.models.tagger_settings import TaggerSettings
from raysem.ontology.class_texts import ClassTextSettings
from raysem.ontology.source import OntologySettings
from raysem.runs.cluster import ClusterSettings
from raysem.runs.part_settings import PartSettings
from raysem.runs.roles import CorpusSource
from raysem.runs.variants import Overrides, baseline_of, check_variants, variant_recipes
from raysem.text.encoder import TextEncoderSettings
from raysem.training.settings import TrainingSettings
from raysem.training.tag_examples import MixupSettings
from raysem.training.tag_objective import TagObjectiveSettings


class TaggingCorporaSettings(PartSettings):
    """Labelled clips by part. Evaluation sets are scored by the final models."""

    own_parts: ClassVar[tuple[str, ...]] = ("train", "held_out")
    taken_names: ClassVar[tuple[str, ...]] = ("main", "held_out", "train")

    train: tuple[CorpusSource, ...] = Field(min_length=1)
    """Labelled clips; a clip without labels has none of the classes."""
    held_out: tuple[CorpusSource, ...] = ()
    """Labelled clips by which the best step is chosen, never a test set; none: the last step is kept."""


class ClassSettings(Settings):
    """The classes, and the texts that SPA pulls their clips towards."""

    ontology: OntologySettings = OntologySettings()
    texts: ClassTextSettings = ClassTextSettings()
    encoder: TextEncoderSettings = TextEncoderSettings()
    """The text encoder; it is never trained here."""


class TaggerTrainingSettings(Settings):
    """One tagger: what it is, what it is trained for, and how."""

    model: TaggerSettings = TaggerSettings()
    objective: TagObjectiveSettings = TagObjectiveSettings()
    sampling: Literal["uniform", "balanced"] = "uniform"
    """`balanced`: a clip's weight is the sum over its labels of 1000 / (clips with the label + 0.01)."""
    augmentation: AugmentSettings = AugmentSettings()
    mixup: MixupSettings = MixupSettings()
    training: TrainingSettings = TrainingSettings(selection_metric="omap")

    @model_validator(mode="after")
    def _can_be_aligned(self) -> TaggerTrainingSettings:
        if self.objective.spa_weight > 0 and self.model.projection == "none":
            raise ValueError("model.projection: is none, and objective.spa_weight above 0 needs one (linear or mlp)")
        return self

    def without_idle_projection(self) -> TaggerTrainingSettings:
        """The same; without SPA, without a projection."""
        if self.objective.spa_weight > 0:
            return self
        return self.model_copy(update={"model": self.model.model_copy(update={"projection": "none"})})


class TaggingEvaluationSettings(Settings):
    """How the final models are scored, and what is watched while they train."""

    watch: bool = True
    """Measure the evaluation sets at every evaluation in training, too: every clip once, one centre crop. They choose
    nothing."""
    embed: EmbedSettings = EmbedSettings(num_crops=1)
    metrics: TaggingSettings = TaggingSettings()
    baseline: str = ""
    """The tagger that the others are compared with; empty: the first one."""


class TaggingReportSettings(Settings):
    """What the report shows."""

    title: str = "Tagging run"
    listening_clips: PositiveInt = 12
    tags_per_clip: PositiveInt = 5


class TaggingRecipe(Settings):
    """Taggers trained one-hot, with OBCE or with SPA, and a report about them."""

    seed: int = Field(0, ge=0)
    corpora: TaggingCorporaSettings
    classes: ClassSettings = ClassSettings()
    audio: AudioSettings = AudioSettings()
    """Limits and checks; the sample rate is the model's own."""
    tagger: TaggerTrainingSettings = TaggerTrainingSettings()
    evaluation: TaggingEvaluationSettings = TaggingEvaluationSettings()
    cluster: ClusterSettings = ClusterSettings()
    report: TaggingReportSettings = TaggingReportSettings()
    variants: dict[str, Overrides] = Field(default_factory=dict)
    """Taggers by name, each a set of dotted `tagger.*` keys over this recipe; empty: one `tagger`."""

    @field_validator("variants")
    @classmethod
    def _touches_only_the_tagger(cls, variants: dict[str, Overrides]) -> dict[str, Overrides]:
        check_variants(variants, lambda key: key.startswith("tagger."), "tagger.*")
        return variants

    def taggers(self) -> dict[str, TaggerTrainingSettings]:
        """The settings of each tagger, with its variant's overrides applied.

        One without SPA has no projection: nothing would train it, and no text would give its width.
        """
        recipes = variant_recipes(self, self.variants, alone="tagger")
        return {name: recipe.tagger.without_idle_projection() for name, recipe in recipes.items()}

    @property
    def baseline(self) -> str:
        """The tagger that the others are compared with.

        Raises:
            ConfigError: there is none of that name.
        """
        return baseline_of(self.evaluation.baseline, self.variants, alone="tagger")
