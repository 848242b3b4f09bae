"""Text encoders: any Hugging Face encoder (BERT, RoBERTa, MiniLM, CLIP, ...), pooled to one vector per text."""

# Shapes: B texts in the batch, L tokens, W width of the encoder.

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from raysem.config import Settings
from raysem.errors import ConfigError
from raysem.text.base import TOKENIZER_FILES, longest_text, read_base, read_config, read_tokenizer
from raysem.text.clip_text import (
    clip_text_config,
    clip_width,
    end_of_text,
    is_clip,
    read_clip_text,
    read_clip_tokenizer,
)
from raysem.text.hub import MINILM, model_folder

Pooling = Literal["cls", "mean", "eos"]


class TextEncoderSettings(Settings):
    """Which text encoder, and how its tokens become one vector."""

    name: str = MINILM
    """Name on the Hub, local folder or URI. The default comes with the extra `offline`."""
    pooling: Pooling = "mean"
    """`cls`: the first token, as in CLAP. `mean`: over the tokens that are not padding, as MiniLM was trained. `eos`:
    CLIP's end-of-text token, projected where the model has a projection; for CLIP alone, and the only one for it."""
    max_tokens: PositiveInt = 100
    """Longer texts are cut; the start and end tokens count. CLIP reads 77 at most."""
    trained: bool = False
    """Whether training changes the encoder. A frozen one stays in evaluation mode and its features can be cached."""


class TextEncoder(nn.Module):
    """Texts to `text_BW`, one row per text in the same order.

    Loading is strict: a weight that is missing or left over is an error, see `LEFT_OUT` in base.py and clip_text.py for
    what is skipped by name.

    Args:
        location: where to read the files instead of `settings.name` (a raysem checkpoint holds a copy).
        weights: the encoder's weights, instead of those at the location; names as `base` has them.
        key: dotted key for messages.
    """

    def __init__(
        self,
        settings: TextEncoderSettings | None = None,
        *,
        location: str | None = None,
        weights: Mapping[str, Tensor] | None = None,
        key: str = "text.name",
    ):
        super().__init__()
        self.settings = settings = settings or TextEncoderSettings()
        name = location or settings.name
        with model_folder(name, key=key) as folder, quiet_transformers():
            config = read_config(folder, name, key)
            _check_settings(settings, config, key)
            if is_clip(config):
                self._tokenizer = read_clip_tokenizer(folder, name, key)
                base: Any = read_clip_text(folder, config, self._tokenizer, name, weights)
            else:
                self._tokenizer = read_tokenizer(folder, name, key)
                base = read_base(folder, config, name, key, weights)
            self.files = read_small_files(folder)
        """Configuration and tokenizer files, by name, as they were read."""
        self.base: nn.Module = base
        self.width: int = clip_width(base) if settings.pooling == "eos" else base.config.hidden_size
        self.base.requires_grad_(settings.trained)
        self.train(self.training)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.base.parameters()).device

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token numbers (B, L) and their mask, padded to the longest text, on the CPU."""
        if isinstance(texts, str) or not texts:
            raise ValueError(f"expected a list of at least one text, got {texts!r}")
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.settings.max_tokens, return_tensors="pt"
        )
        return dict(tokens)

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """text_BW from what `tokenize` returned; moved to the model's device here."""
        tokens = {name: tensor.to(self.device) for name, tensor in tokens.items()}
        with torch.set_grad_enabled(self.settings.trained and torch.is_grad_enabled()):
            if self.settings.pooling == "eos":
                return end_of_text(self.base, tokens)
            hidden_BLW = self.base(**tokens).last_hidden_state
        if self.settings.pooling == "cls":
            return hidden_BLW[:, 0]
        mask_BL1 = tokens["attention_mask"].unsqueeze(2).to(hidden_BLW.dtype)
        return (hidden_BLW * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1)

    def train(self, mode: bool = True) -> TextEncoder:
        """A frozen encoder stays in evaluation mode: its features must not change from step to step."""
        super().train(mode)
        if not self.settings.trained:
            self.base.eval()
        return self

    def files_digest(self) -> str:
        """SHA-256 over configuration and tokenizer files."""
        sha = hashlib.sha256()
        for name in sorted(self.files):
            sha.update(name.encode() + b"\0" + hashlib.sha256(self.files[name]).digest())
        return sha.hexdigest()


def read_small_files(folder: Path) -> dict[str, bytes]:
    """Configuration and tokenizer files of a model's folder, by name."""
    names = ("config.json", *TOKENIZER_FILES)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def _check_settings(settings: TextEncoderSettings, config: Any, key: str) -> None:
    """ConfigError that names every setting which does not fit the model, before weights are read."""
    clip, name, problems = is_clip(config), settings.name, []
    if clip and settings.pooling != "eos":
        # Attention is causal: the first token has seen no word, and only the last was trained to stand for the text.
        problems.append(
            f"{_beside(key, 'pooling')}: {name} is a CLIP model, whose vector of a text is that of its end-of-text "
            f"token: expected eos, got {settings.pooling}"
        )
    if not clip and settings.pooling == "eos":
        problems.append(
            f"{_beside(key, 'pooling')}: eos is CLIP's, {name} is a {config.model_type} model: expected mean or cls"
        )
    longest = longest_text(clip_text_config(config) if clip else config)
    if settings.max_tokens > longest:
        problems.append(
            f"{_beside(key, 'max_tokens')}: {name} reads at most {longest} tokens, got {settings.max_tokens}"
        )
    if problems:
        raise ConfigError("; ".join(problems))


def _beside(key: str, field: str) -> str:
    """The dotted key of the setting `field` beside that of the encoder's name, or that of the encoder itself."""
    section, _, last = key.rpartition(".")
    return f"{section}.{field}".lstrip(".") if last == "name" else key


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports on the user's terminal: what they tell is checked here."""
    from transformers.utils import logging as transformers_logging

    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
