"""CLAP-2022 checkpoints (Elizalde et al. 2022; repository microsoft/CLAP): 292 tensors, 196.30 M numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raysem.audio.logmel import LogMelSettings
from raysem.errors import DataError
from raysem.models.checkpoint import check_keys
from raysem.models.clap import Clap, ClapSettings
from raysem.models.importers.panns import panns_from_state, start_audio_encoder
from raysem.models.importers.pth import read_state_dict
from raysem.text.encoder import TextEncoder, TextEncoderSettings

# Prefix in the file: prefix of the projection in `Clap`.
PROJECTIONS = {"audio_encoder.projection.": "audio_projection.", "caption_encoder.projection.": "text_projection."}
AUDIO_BASE, TEXT_BASE = "audio_encoder.base.", "caption_encoder.base."
# BERT's pooler is in the file but not in CLAP's equations: the text embedding is the hidden state of [CLS].
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
# Position numbers, stored by older versions of transformers: always 0, 1, 2, ...
POSITIONS = "embeddings.position_ids"


def load_clap2022(
    location: str, *, text_encoder: str = "bert-base-uncased", device: str | torch.device = "cpu"
) -> Clap:
    """The model of a CLAP-2022 `.pth`, in evaluation mode. Mel matrix, STFT and BERT's weights are the file's.

    Left out by name: BERT's pooler and PANNs' classifier, which CLAP does not use. Anything else that is missing or
    left over is a DataError.

    Args:
        text_encoder: name or folder of the BERT model, for its configuration and tokenizer.
    """
    state = read_state_dict(location, key="teacher.location")
    parts = _split(state, location)
    settings = ClapSettings(
        audio_encoder="cnn14",
        log_mel=LogMelSettings(kernels="stored"),
        text=TextEncoderSettings(name=text_encoder, pooling="cls", max_tokens=100, trained=True),
        embedding_width=1024,
        temperature=0.07,
    )
    panns = panns_from_state(parts[AUDIO_BASE], log_mel=settings.log_mel, where=f"{location}: {AUDIO_BASE}*")
    text = TextEncoder(settings.text, weights=_without_pooler(parts[TEXT_BASE], location), key="teacher.text_encoder")
    model = Clap(settings, text_encoder=text)
    start_audio_encoder(model, panns)
    for prefix, name in PROJECTIONS.items():
        projection = model.get_submodule(name.rstrip("."))
        check_keys(parts[prefix], projection.state_dict(), f"{location}: {prefix}*")
        projection.load_state_dict(parts[prefix])
    with torch.no_grad():
        model.logit_scale.copy_(parts[""]["logit_scale"])
    return model.to(device).eval()


def _split(state: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    """The tensors by prefix, prefix taken off; those without one under ""."""
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in (AUDIO_BASE, TEXT_BASE, *PROJECTIONS, "")}
    for name, tensor in state.items():
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        parts[prefix][name.removeprefix(prefix)] = tensor
    check_keys(parts[""], {"logit_scale": torch.empty(())}, where)
    return parts


def _without_pooler(text: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    missing = [TEXT_BASE + name for name in POOLER if name not in text]
    if missing:
        raise DataError(f"{where}: weights do not fit: missing {missing}")
    return {name: tensor for name, tensor in text.items() if name not in (*POOLER, POSITIONS)}
