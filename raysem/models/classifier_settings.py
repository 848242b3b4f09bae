"""What decides a classifier, together with its labels."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveInt, model_validator

from raysem.models.encoder_settings import EncoderSettings
from raysem.models.similarity import SimilaritySettings
from raysem.text.encoder import TextEncoderSettings
from raysem.text.prompts import LabelPromptSettings


class ClassifierSettings(EncoderSettings):
    """One classifier of single labels: SemanticAC, or with `similarity: null` the paper's baseline without text.

    The scale of the cosines starts at 100 and is kept between 1 and 100, as AudioCLIP has it; the paper does not say.
    """

    similarity: SimilaritySettings | None = SimilaritySettings()
    """From the encoder's map to a vector in the space that audio and prompts share; null: a linear layer over the
    encoder's embedding, one output for each label, and no text."""
    text: TextEncoderSettings = TextEncoderSettings()
    """The text encoder; a linear layer follows where its width is not `shared_width`."""
    prompts: LabelPromptSettings = LabelPromptSettings()
    label_words: dict[str, str] = Field(default_factory=dict)
    """What a prompt calls a label, where that is not the label itself (`gun_shot: a gunshot`)."""
    shared_width: PositiveInt = 1024
    """C, the width of the space that audio and prompts share."""
    audio_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the encoder's map, or before the linear layer of the baseline."""
    initial_scale: float = Field(100.0, ge=1)
    """Start of the factor of the cosines."""
    max_scale: float = Field(100.0, ge=1)
    """The factor is learned between 1 and this."""

    @model_validator(mode="after")
    def _check_scale(self) -> ClassifierSettings:
        if self.initial_scale > self.max_scale:
            raise ValueError(f"initial_scale {self.initial_scale:g} is above max_scale {self.max_scale:g}")
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> ClassifierSettings:
        similarity = self.similarity
        if similarity is not None and similarity.name == "seq_transf" and self.shared_width % similarity.num_heads:
            raise ValueError(
                f"similarity.num_heads {similarity.num_heads} does not divide shared_width {self.shared_width}"
            )
        return self


def check_labels(labels: Sequence[str]) -> None:
    """ValueError unless there are two labels at least, each once."""
    if isinstance(labels, str) or len(labels) < 2 or len(set(labels)) != len(labels):
        raise ValueError(f"expected at least 2 different labels, got {labels!r:.200}")
