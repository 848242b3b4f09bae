"""A new CLAP model, before its first step of training."""

from __future__ import annotations

import torch

from raysem.models.clap import Clap, ClapSettings
from raysem.models.importers.panns import load_panns, start_audio_encoder


def build_clap(settings: ClapSettings, *, seed: int) -> Clap:
    """A model whose random weights depend on `seed` alone; the audio encoder starts from `settings.audio_weights`.

    With those the front end's kernels are the file's, and the model's settings say so (`log_mel.kernels: stored`).
    """
    if settings.audio_weights is not None:
        settings = settings.model_copy(
            update={"log_mel": settings.log_mel.model_copy(update={"kernels": "stored"})}, deep=True
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Clap(settings)
    if settings.audio_weights is not None:
        start_audio_encoder(model, load_panns(settings.audio_weights, log_mel=settings.log_mel))
    return model
