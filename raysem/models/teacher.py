"""Teachers: an audio-text model from whatever it was stored as."""

from __future__ import annotations

from typing import Literal

import torch

from raysem.config import Settings
from raysem.models.checkpoint import load_model
from raysem.models.importers.clap2022 import load_clap2022
from raysem.models.importers.hf_clap import load_hf_clap
from raysem.models.protocol import AudioTextModel


class TeacherSource(Settings):
    """Where a teacher comes from."""

    kind: Literal["raysem", "clap2022", "hf_clap"] = "raysem"
    """`raysem`: a checkpoint folder. `clap2022`: a `.pth` with 292 tensors. `hf_clap`: a `ClapModel`."""
    location: str
    """Folder, file, URI, or for `hf_clap` a name on the Hub."""
    text_encoder: str = "bert-base-uncased"
    """For `clap2022`: name or folder of the BERT model, for its configuration and tokenizer."""


def load_teacher(
    source: TeacherSource, device: str | torch.device = "cpu", *, with_text: bool = True
) -> AudioTextModel:
    """The teacher in evaluation mode. It never goes on with weights that the source does not hold.

    Args:
        with_text: false for who embeds audio only; where the kind allows it the text encoder is not built then.
    """
    match source.kind:
        case "raysem":
            return load_model(source.location, device, with_text=with_text)
        case "clap2022":
            return load_clap2022(source.location, text_encoder=source.text_encoder, device=device)
        case "hf_clap":
            return load_hf_clap(source.location, device=device)
