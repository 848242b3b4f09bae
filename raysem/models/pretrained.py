"""Audio encoders from the checkpoints that others published."""

from __future__ import annotations

from typing import Literal

import torch

from raysem.config import Settings
from raysem.models.encoder import WaveformEncoder
from raysem.models.importers.ast import load_ast
from raysem.models.importers.efficientat import load_efficientat
from raysem.models.importers.hts_at import load_hts_at
from raysem.models.importers.panns import load_panns_encoder
from raysem.models.importers.passt import load_passt
from raysem.models.registry import WaveformEncoderName, encoder_design


class EncoderSource(Settings):
    """Where a pretrained encoder comes from."""

    kind: Literal["panns", "efficientat", "ast", "hts_at", "passt"]
    """Layout of the file: PANNs `.pth`, EfficientAT `.pt`, AST in Hugging Face's, HTS-AT `.ckpt`, PaSST `.pt`."""
    location: str
    """File or URI; for `ast` a folder, URI or name on the Hub."""
    encoder: WaveformEncoderName | None = None
    """For `efficientat`: the width of the checkpoint, if not `mn10`."""


def load_encoder(
    source: EncoderSource,
    *,
    with_classes: bool = True,
    device: str | torch.device = "cpu",
    key: str = "encoder.location",
) -> WaveformEncoder:
    """The encoder in evaluation mode. It never goes on with weights that the source does not hold."""
    match source.kind:
        case "panns":
            encoder = load_panns_encoder(source.location, with_classes=with_classes, key=key)
        case "efficientat":
            design = encoder_design(source.encoder or "mn10")
            encoder = load_efficientat(source.location, design=design, with_classes=with_classes, key=key)
        case "ast":
            encoder = load_ast(source.location, with_classes=with_classes, key=key)
        case "hts_at":
            encoder = load_hts_at(source.location, with_classes=with_classes, key=key)
        case "passt":
            encoder = load_passt(source.location, with_classes=with_classes, key=key)
    return encoder.to(device)
