"""Text encoders: any Hugging Face encoder (BERT, RoBERTa, MiniLM, ...), pooled to one vector per text."""

# Shapes: B texts in the batch, L tokens, W width of the encoder.

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from raysem.config import Settings
from raysem.errors import ConfigError, DataError
from raysem.text.hub import MINILM, model_folder

log = logging.getLogger(__name__)

# Copied as they are into a checkpoint: writing a tokenizer anew changes its files with each round.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")

# Left out on purpose: heads of the pretraining task and poolers (never used here), and position numbers, which older
# versions stored.
LEFT_OUT = (
    "pooler.",
    "cls.",
    "lm_head.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "embeddings.position_ids",
)


class TextEncoderSettings(Settings):
    """Which text encoder, and how its tokens become one vector."""

    name: str = MINILM
    """Name on the Hub, local folder or URI. The default comes with the extra `offline`."""
    pooling: Literal["cls", "mean"] = "mean"
    """`cls`: the first token, as in CLAP. `mean`: over the tokens that are not padding, as MiniLM was trained."""
    max_tokens: PositiveInt = 100
    """Longer texts are cut; the start and end tokens count."""
    trained: bool = False
    """Whether training changes the encoder. A frozen one stays in evaluation mode and its features can be cached."""


class TextEncoder(nn.Module):
    """Texts to `text_BW`, one row per text in the same order.

    Loading is strict: a weight that is missing or left over is an error, see `LEFT_OUT` for what is skipped by name.

    Args:
        location: where to read the files instead of `settings.name` (a raysem checkpoint holds a copy).
        weights: the encoder's weights, instead of those at the location; names without a prefix.
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
        with model_folder(location or settings.name, key=key) as folder, quiet_transformers():
            base, self._tokenizer = _load(folder, location or settings.name, key, weights)
            self.files = read_small_files(folder)
        """Configuration and tokenizer files, by name, as they were read."""
        self.base: nn.Module = base
        self.width: int = base.config.hidden_size
        longest = _longest_text(base.config)
        if settings.max_tokens > longest:
            raise ConfigError(
                f"{key.removesuffix('name')}max_tokens: {settings.name} reads at most {longest} tokens, "
                f"got {settings.max_tokens}"
            )
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


def _load(folder: Path, name: str, key: str, weights: Mapping[str, Tensor] | None) -> tuple[Any, Any]:
    from transformers import MODEL_MAPPING, AutoConfig, AutoTokenizer

    if not (folder / "config.json").exists():
        raise ConfigError(f"{key}: {name} has no config.json; it holds {sorted(p.name for p in folder.iterdir())}")
    if not any((folder / file).exists() for file in _VOCABULARY_FILES):
        raise ConfigError(f"{key}: {name} has no tokenizer: one of {', '.join(_VOCABULARY_FILES)} is needed")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model_class: Any = MODEL_MAPPING[type(config)]
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(f"{key}: {name} cannot be read as a Hugging Face model ({_one_line(error)})") from error
    if not hasattr(config, "hidden_size") or getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"{key}: {name} is a {config.model_type} model, expected a text encoder such as BERT")
    options = {"add_pooling_layer": False} if "add_pooling_layer" in _arguments(model_class) else {}
    if weights is not None:
        model = model_class(config, **options)
        result = model.load_state_dict(weights, strict=False)
        _check_keys(name, model, result.missing_keys, result.unexpected_keys)
        return model, tokenizer
    try:
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(f"{name}: the weights cannot be loaded ({_one_line(error)})") from error
    _check_keys(name, model, info["missing_keys"], info["unexpected_keys"])
    return model, tokenizer


def _check_keys(name: str, model: nn.Module, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    left_over = sorted(key for key in unexpected if not key.removeprefix(prefix).startswith(LEFT_OUT))
    absent = sorted(missing)
    if absent or left_over:
        raise DataError(f"{name}: weights do not fit the text encoder: missing {absent}, left over {left_over}")


def read_small_files(folder: Path) -> dict[str, bytes]:
    """Configuration and tokenizer files of a model's folder, by name."""
    names = ("config.json", *TOKENIZER_FILES)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def _longest_text(config: object) -> int:
    positions = int(getattr(config, "max_position_embeddings", 1 << 20))
    # RoBERTa's family numbers positions from pad_token_id + 1.
    is_roberta = "roberta" in str(getattr(config, "model_type", "")) or getattr(config, "model_type", "") == "mpnet"
    return positions - int(getattr(config, "pad_token_id", None) or 0) - 1 if is_roberta else positions


def _arguments(model_class: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model_class.__init__).parameters  # type: ignore[misc]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


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
