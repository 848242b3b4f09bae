"""What curation and evaluation ask of an audio-text model, whatever it was loaded from."""

# Shapes: B clips or texts in the batch, T samples, D width of the shared space.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn


@runtime_checkable
class AudioTextModel(Protocol):
    """Audio and texts to unit vectors of one space; their dot product is the similarity.

    Promises: one row per input in the same order, float32, rows of length 1; a row does not depend on its batch beyond
    1e-6, and the same batch gives the same bits; the model's mode and gradients are as they were before.
    """

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        ...

    @property
    def crop_samples(self) -> int:
        """Length of a waveform as the model was trained."""
        ...

    @property
    def embedding_width(self) -> int:
        """D."""
        ...

    def embed_waveforms(self, waveforms_BT: np.ndarray) -> np.ndarray:
        """(B, D) of mono float32 waveforms."""
        ...

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """(B, D) of texts."""
        ...

    def fingerprint(self) -> str:
        """Digest of all that decides an embedding: weights, settings, tokenizer."""
        ...


@contextmanager
def exact_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, autocast and TF32; every module's own mode comes back afterwards.

    cudnn chooses its algorithms by rule, not by trial, and only reproducible ones: else one batch differs from run to
    run, and TF32 would move a cosine by 1e-3, more than a threshold may move.
    """
    modes = {module: module.training for module in model.modules()}
    precision = torch.get_float32_matmul_precision()
    device = next(model.parameters()).device
    model.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for module, mode in modes.items():
            module.training = mode


def checked_waveforms(waveforms_BT: np.ndarray) -> torch.Tensor:
    """The batch as a float32 tensor; ValueError for anything else than mono waveforms (B, T)."""
    if waveforms_BT.ndim != 2 or not np.issubdtype(waveforms_BT.dtype, np.floating):
        raise ValueError(f"expected float waveforms (B, T), got {waveforms_BT.dtype} {waveforms_BT.shape}")
    return torch.from_numpy(np.array(waveforms_BT, dtype=np.float32))


def by_length(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Positions of `texts` in batches of similar length, so that little of a batch is padding."""
    if isinstance(texts, str) or batch_size < 1:
        raise ValueError(f"expected a list of texts and a batch size above 0, got {texts!r:.80} and {batch_size}")
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
