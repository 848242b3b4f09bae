"""The recipe of `curate_and_train`: one typed, frozen tree, and the variants that change parts of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from raysem import config
from raysem.audio.load import AudioSettings
from raysem.config import Settings
from raysem.curation.neighbours import NeighbourSettings
from raysem.curation.ray_stages import EmbedSettings
from raysem.curation.selection import PAPER_THRESHOLDS, PAPER_UNDIRECTED_THRESHOLD, SelectionSettings
from raysem.evaluation.zero_shot import ZeroShotSettings
from raysem.models.clap import ClapSettings
from raysem.runs.cluster import ClusterSettings
from raysem.runs.part_settings import PartSettings
from raysem.runs.roles import CorpusSource
from raysem.runs.variants import Overrides, check_variants, variant_recipes
from raysem.training.objective import ObjectiveSettings
from raysem.training.settings import TrainingSettings


class CorporaSettings(PartSettings):
    """Which corpora play which part. A part may be joined from several sources.

    Evaluation sets have labelled clips (zero-shot accuracy), captioned clips (retrieval), or both.
    """

    own_parts: ClassVar[tuple[str, ...]] = ("teacher", "held_out", "wild", "captions")
    taken_names: ClassVar[tuple[str, ...]] = ("wild", "screen", "match")

    teacher: tuple[CorpusSource, ...] = ()
    """Captioned clips: what a teacher is trained on, what DS selects from, what replay draws from."""
    held_out: tuple[CorpusSource, ...] = ()
    """Captioned clips on which checkpoints are chosen; never a test set."""
    wild: tuple[CorpusSource, ...] = Field(min_length=1)
    """The pool without captions. Labels, where a corpus has them, are put aside and only used to measure precision."""
    captions: tuple[CorpusSource, ...] = ()
    """Captions without audio that join the pool of captions."""
    use_teacher_captions: bool = True
    """Whether the teacher's captions are in the pool of captions."""


class TeacherSettings(Settings):
    """Where the teacher comes from: trained here, or loaded."""

    kind: Literal["train", "raysem", "clap2022", "hf_clap"] = "train"
    location: str = ""
    """Checkpoint or model name, for every kind but `train`."""
    text_encoder: str = "bert-base-uncased"
    """Name or path of the text encoder that a CLAP-2022 checkpoint was trained with (configuration and tokenizer)."""
    model: ClapSettings = ClapSettings()
    subset_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the captioned clips that there are for the teacher, and so for DS, replay and the pool of captions; the
    paper's small teacher has 0.1."""
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> TeacherSettings:
        if self.kind != "train" and not self.location:
            raise ValueError(f"location: is needed with kind {self.kind}")
        return self


class CurationSettings(SelectionSettings):
    """Embedding, matching and the rule by which pairs are kept (`SelectionSettings`)."""

    embed: EmbedSettings = EmbedSettings()
    match_floor: float = Field(0.5, ge=-1, le=1)
    """Pairs below it are never stored. At most the lowest threshold of interest; it does not follow the thresholds, so
    that changing one of them does not match everything again."""
    neighbours: PositiveInt = 10
    """k of the nearest-neighbour tables and of hubness; the tables grow to what a `margin` asks for."""
    neighbour_index: NeighbourSettings = NeighbourSettings()
    """How the clips' nearest captions are looked up; the captions' nearest clips are always exact."""
    released_thresholds: Literal["esc50", "urbansound8k", "tut17"] | None = None
    """Take the paper's released thresholds for this downstream set instead of the two above."""
    domain: tuple[str, ...] = ()
    """Evaluation sets whose labels are the domain of DS and ADS; empty: all that have labels."""
    exclude_overlap_similarity: float | None = Field(None, gt=0, le=1)
    """Pool clips whose teacher embedding has at least this cosine with an evaluation clip are left out; null: off."""
    duplicate_similarity: float | None = Field(None, gt=0, le=1)
    """Of pool clips nearer to each other than this cosine only the first by clip_id stays; null: off."""
    materialize_audio: bool = False
    """Copy the kept clips' audio bytes into the Improvement-Set."""


class StudentSettings(Settings):
    """The student: warm-started from the teacher."""

    train_on: Literal["improvement_set", "teacher_pairs"] = "improvement_set"
    """`teacher_pairs` is the control: as many more steps on what the teacher knows."""
    replay_from: Literal["auto", "teacher", "ds", "none"] = "auto"
    """auto: DU replays the teacher's pairs, ADS the pairs that DS keeps of them, DS and the control none."""
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()


class EvaluationSettings(Settings):
    """The pinned protocol of the final numbers."""

    zero_shot: ZeroShotSettings = ZeroShotSettings()


class ReportSettings(Settings):
    """What the report shows."""

    title: str = "Curation run"
    players_per_class: PositiveInt = 3
    """Pairs to listen to for each class and kind (best, borderline, rejected)."""
    listening_classes: PositiveInt = 8


class CurateAndTrainRecipe(Settings):
    """From clips and captions to a better audio-text model and a report about it."""

    seed: int = Field(0, ge=0)
    corpora: CorporaSettings
    audio: AudioSettings = AudioSettings()
    """Limits and checks; the sample rate is the model's own."""
    teacher: TeacherSettings = TeacherSettings()
    curation: CurationSettings = CurationSettings()
    student: StudentSettings = StudentSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    cluster: ClusterSettings = ClusterSettings()
    report: ReportSettings = ReportSettings()
    variants: dict[str, Overrides] = Field(default_factory=dict)
    """Students by name, each a set of dotted `curation.*` and `student.*` keys over this recipe; empty: one `student`.

    All share the teacher, the embeddings and the scored pairs.
    """

    @field_validator("variants")
    @classmethod
    def _touches_only_what_comes_after_matching(cls, variants: dict[str, Overrides]) -> dict[str, Overrides]:
        if "teacher" in variants:
            raise ValueError("teacher: the name is taken by the teacher itself")
        check_variants(variants, _is_after_matching, "curation.* or student.*")
        return variants

    def students(self) -> dict[str, CurateAndTrainRecipe]:
        """The recipe of each student, with its variant's overrides applied and no variants of its own."""
        return variant_recipes(self, self.variants, alone="student")

    def lowest_threshold(self) -> float:
        """The lowest cosine that a stored pair needs; ConfigError when a threshold lies below it."""
        floor = self.curation.match_floor
        for name, student in self.students().items():
            threshold = _lowest(student.curation)
            if student.curation.strategy != "DS" and threshold < floor:
                raise config.ConfigError(
                    f"curation.match_floor: {floor:g} is above the threshold {threshold:g} of {name}; pairs below the "
                    f"floor are not stored, lower it"
                )
        return floor


def _lowest(curation: CurationSettings) -> float:
    if curation.released_thresholds is None:
        return curation.similarity_threshold
    return min(PAPER_UNDIRECTED_THRESHOLD, PAPER_THRESHOLDS[curation.released_thresholds]["similarity_threshold"])


def _is_after_matching(key: str) -> bool:
    section, _, rest = key.partition(".")
    return section in ("curation", "student") and bool(rest) and rest.split(".")[0] not in _SHARED


_SHARED = (CurationSettings.model_fields.keys() - SelectionSettings.model_fields.keys()) - {
    "domain",
    "released_thresholds",
}
