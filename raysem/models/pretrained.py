"""Audio encoders from checkpoints: those that others published, and those of taggers that raysem trained."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator

from raysem.config import Settings
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.ast import load_ast
from raysem.models.importers.efficientat import load_efficientat
from raysem.models.importers.hts_at import load_hts_at
from raysem.models.importers.panns import load_panns_encoder
from raysem.models.importers.passt import load_passt
from raysem.models.importers.tagger import load_tagger_encoder
from raysem.models.registry import WAVEFORM_ENCODERS, EncoderDesign, WaveformEncoderName

PUBLISHED_NAMES: dict[str, WaveformEncoderName] = {
    "panns": "cnn14",
    "efficientat": "mn10",
    "ast": "ast",
    "hts_at": "hts_at",
    "passt": "passt_s",
}
"""The encoder that a published kind of checkpoint is of, unless its source says another."""


class EncoderSource(Settings):
    """Where a pretrained encoder comes from."""

    kind: Literal["panns", "efficientat", "ast", "hts_at", "passt", "tagger"]
    """Layout of the file: PANNs `.pth`, EfficientAT `.pt`, AST in Hugging Face's, HTS-AT `.ckpt`, PaSST `.pt`, or the
    folder of a tagger that raysem trained."""
    location: str
    """File or URI; for `ast` a folder, URI or name on the Hub; for `tagger` a folder or URI."""
    encoder: WaveformEncoderName | None = None
    """For `efficientat`: the width of the checkpoint, if not `mn10`. For `tagger`: its encoder, always to be given."""

    @model_validator(mode="after")
    def _check_encoder(self) -> EncoderSource:
        if self.kind == "tagger" and self.encoder is None:
            raise ValueError("encoder: is needed for kind tagger, whose folder may be of any of them")
        return self


def published_name(source: EncoderSource) -> WaveformEncoderName:
    """The name of the encoder in the checkpoint."""
    return source.encoder or PUBLISHED_NAMES[source.kind]


def load_encoder(
    source: EncoderSource,
    *,
    design: EncoderDesign | None = None,
    with_classes: bool = True,
    device: str | torch.device = "cpu",
    key: str = "encoder.location",
) -> WaveformEncoder:
    """The encoder in evaluation mode. It never goes on with weights that the source does not hold.

    Args:
        design: for `efficientat`, `hts_at` and `passt`, whose files do not tell all of it: the numbers of the
            checkpoint, if not those of `WAVEFORM_ENCODERS`. For `tagger`, whose folder does: what they must be, if not
            what they are.
        with_classes: false leaves the published classifier out; most taggers have none (see `load_tagger_encoder`).
    """
    name = published_name(source)
    numbers = design or WAVEFORM_ENCODERS[name]
    encoder: WaveformEncoder
    match source.kind:
        case "panns":
            encoder = load_panns_encoder(source.location, with_classes=with_classes, key=key)
        case "efficientat":
            encoder = load_efficientat(source.location, design=numbers, with_classes=with_classes, key=key)
        case "ast":
            encoder = load_ast(source.location, with_classes=with_classes, key=key)
        case "hts_at":
            encoder = load_hts_at(source.location, design=numbers, with_classes=with_classes, key=key)
        case "passt":
            encoder = load_passt(source.location, design=numbers, with_classes=with_classes, key=key)
        case "tagger":
            encoder = load_tagger_encoder(
                source.location, encoder=name, design=design, with_classes=with_classes, key=key
            )
    return encoder.to(device)
