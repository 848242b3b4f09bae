"""What decides a tagger, together with its classes and the width of the text space."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raysem.models.encoder_settings import EncoderSettings


class TaggerSettings(EncoderSettings):
    """One tagger: its encoder, its classifier, and the projection towards the texts of the classes."""

    start_classes: bool = False
    """Keep the published classifier of `start` as it is; its classes must be the tagger's."""
    head_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the new classifier."""
    projection: Literal["none", "linear", "mlp"] = "none"
    """From the embedding into the space of the class texts, for L_SPA; `mlp` is the projection of CLAP-2022."""
    projection_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout within the projection `mlp`."""

    @model_validator(mode="after")
    def _check_head(self) -> TaggerSettings:
        if self.start_classes and self.start is None:
            raise ValueError("start_classes keeps the classifier of a published checkpoint: it needs start")
        if self.start_classes and self.head_dropout:
            raise ValueError("head_dropout is that of a new classifier; start_classes keeps the published one as it is")
        return self
